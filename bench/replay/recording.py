"""Recorded drafts: at every anchor of every request, how many would be accepted and how sure the drafter was."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from bench.replay.clock import DATA

DOMAINS = ("math", "code", "chat")


@dataclass(frozen=True, slots=True)
class Recording:
    """accepted [N, T] of a whole block; evidence f32 [N, T, G], logits of conditional acceptance."""

    accepted: NDArray[np.int64]
    evidence: NDArray[np.float32]

    @property
    def width(self) -> int:
        """Drafts per block."""
        return self.evidence.shape[2]

    @property
    def length(self) -> int:
        """Anchors per request: a step that passes the last one ends the request."""
        return self.evidence.shape[1]


@cache
def read_recording(domains: Sequence[str] = DOMAINS) -> Recording:
    """Return the recorded requests of some domains, in the order in which they are stored."""
    with np.load(DATA / "acceptance.npz", allow_pickle=False) as file:
        chosen = np.isin(file["domain"], domains)
        confidence = file["confidence"][chosen].astype(np.float64).clip(1e-6, 1 - 1e-6)
        accepted = file["accepted"][chosen].astype(np.int64)
    return Recording(accepted, np.log(confidence / (1 - confidence)).astype(np.float32))
