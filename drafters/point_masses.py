"""Proposals of drafters that look tokens up on the host, laid out as one draft."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from core.tensors import Draft, DraftAsk

Row = Sequence[float] | NDArray[Any]


def point_masses(ask: DraftAsk, width: int, found: Iterable[tuple[Row, Row]]) -> Draft:
    """Return the proposals for the sequences of an ask, in its order: tokens, at most `width`, and their log-odds."""
    batch = len(ask.anchors)
    tokens = np.zeros((batch, width), dtype=np.int64)
    lengths = np.zeros(batch, dtype=np.int32)
    evidence = np.zeros((batch, width), dtype=np.float32)
    for b, (proposed, odds) in enumerate(found):
        lengths[b] = num_found = len(proposed)
        tokens[b, :num_found], evidence[b, :num_found] = proposed, odds
    device = ask.anchors.device
    return Draft(
        torch.from_numpy(tokens).to(device),
        torch.from_numpy(lengths).to(device),
        torch.ones(batch, dtype=torch.bool, device=device),
        None,
        torch.from_numpy(evidence).to(device),
    )
