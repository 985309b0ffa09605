"""The average of a network and of what it was trained on from: it keeps more of what the first knew.

Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" (WiSE-FT): between the two ends of a fine-tuning the loss
is low all along the way, and often lowest there.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


def copied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights as they are now."""
    return {name: weight.detach().clone() for name, weight in weights.items()}


def averaged(trained: Mapping[str, Tensor], start: Mapping[str, Tensor], start_share: float) -> dict[str, Tensor]:
    """Return start_share of what a network started from and the rest of what it became, weight by weight."""
    return {name: torch.lerp(weight.detach(), start[name].to(weight), start_share) for name, weight in trained.items()}
