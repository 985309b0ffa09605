"""Evidence for drafters without a confidence head: by how much the draft's largest logit beats the second.

It is read from raw logits, before temperature, truncation and draws: greedy requests have it as others do, and it
cannot tell which token was drawn. Serving learns per position what it means (policies/online_calibration.py); with that
it ranks drafts about as well as a trained head (docs/writing-a-drafter.md).
"""

from torch import Tensor

# Log-odds of acceptance per unit of margin, to begin with: between what vLLM's users report of several models, 0.44 to
# 0.83, and what the demo's DSpark shows without its head.
SLOPE = 0.6
# A draft this sure is accepted or has met what no margin tells; and infinite margins would be no numbers.
GREATEST = 16.0


def margin_evidence(logits: Tensor) -> Tensor:
    """Return evidence [...] of raw logits [..., V]: the margin of the largest over the second, as log-odds."""
    best = logits.topk(2, dim=-1).values
    return as_evidence(best[..., 0] - best[..., 1])


def as_evidence(margins: Tensor) -> Tensor:
    """Turn margins [...], in place, into evidence."""
    return margins.clamp_(max=GREATEST).mul_(SLOPE)
