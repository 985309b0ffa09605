"""An installed distribution of somebody else's, with real metadata: importlib finds it as it finds any other."""

import sys
from pathlib import Path

POLITE = """
import numpy as np

from core.planning import FixedLength, Plan


class Polite:
    name = "polite"

    def __init__(self, length: int, *, patience: float = 1.0, weights: list | None = None) -> None:
        if length < 1:
            raise ValueError(f"length must be 1 or more, got {length}")
        self.length, self.patience, self.weights = length, patience, weights

    def plan(self, view):
        length = 1 if view.queue_depth else self.length
        draft_len = np.minimum(view.gamma_max, length).astype(np.int32)
        return Plan(draft_len, FixedLength(length), np.ones(len(view.slots), dtype=np.bool_))

    def observe(self, outcome):
        pass
"""

ECHO = """
import torch

from core.tensors import Draft
from drafters.base import DrafterSpec


class Echo:
    def __init__(self, *, target, max_drafts: int = 4) -> None:
        self.target, self.spec = target, DrafterSpec(name="echo", max_drafts=max_drafts, point_mass=True)

    def open(self, slot, tokens, num_cached):
        pass

    def extend(self, commit):
        pass

    def propose(self, ask):
        size, width = len(ask.anchors), self.spec.max_drafts
        tokens = ask.anchors[:, None].expand(size, width).clone()
        return Draft(tokens, ask.lengths.clamp(max=width), torch.ones(size, dtype=torch.bool), None,
                     torch.zeros(size, width))

    def release(self, slot):
        pass
"""

ENTRY_POINTS = """
[specd.policies]
polite = polite_policy:Polite
hollow = polite_policy:Plan

[specd.drafters]
echo = echo_drafter:Echo
"""


def install(folder: Path, monkeypatch) -> None:
    """Put a distribution with a policy `polite` and a drafter `echo` on the path until the test ends."""
    metadata = folder / "manners-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: manners\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    (folder / "polite_policy.py").write_text(POLITE)
    (folder / "echo_drafter.py").write_text(ECHO)
    monkeypatch.syspath_prepend(folder)
    for module in ("polite_policy", "echo_drafter"):
        monkeypatch.delitem(sys.modules, module, raising=False)
