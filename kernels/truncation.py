"""Truncation of a law: which tokens top-k, top-p and min-p leave, row by row. What each means: `reference.process`."""

import torch
from torch import Tensor

# Sorting a vocabulary costs ten times more than finding its largest few hundred logits, which mostly suffice.
NUM_CANDIDATES = 256


def truncate(logits: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Apply top-k, then top-p, to logits f32 [R, V] whose largest is 0; limits i64 and f32 [R, 1]."""
    vocab = logits.shape[-1]
    num = vocab if int(top_k.max()) > NUM_CANDIDATES else min(NUM_CANDIDATES, vocab)
    ordered, num_kept = _cut(logits, top_k, top_p, num)
    if num < vocab and int(num_kept.max()) == num:
        ordered, num_kept = _cut(logits, top_k, top_p, vocab)
    return logits.masked_fill(~largest(logits, ordered, num_kept), -torch.inf)


def drop_below(logits: Tensor, min_p: Tensor) -> Tensor:
    """Apply min-p, f32 [R, 1] in (0, 1], to logits f32 [R, V] whose largest is 0.

    p >= min_p * max p reads logit >= log min_p, whatever the sum of what was kept.
    """
    return logits.masked_fill(logits < min_p.log(), -torch.inf)


def largest(logits: Tensor, ordered: Tensor, num: Tensor) -> Tensor:
    """Return which of the logits [R, V] are the `num` largest of their row, the lower id first of equals; bool [R, V].

    ordered  f32 [R, K]; the largest logits of each row, in falling order
    num      i64 [R, 1], 1..K
    """
    last = ordered.gather(1, num - 1)
    is_last = logits == last
    num_ties = num - (ordered > last).sum(1, keepdim=True)
    return (logits > last) | (is_last & (is_last.cumsum(1) <= num_ties))


def _cut(logits: Tensor, top_k: Tensor, top_p: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Return the `num` largest logits [R, num] and how many of them are kept, i64 [R, 1]; `num` means all or more.

    The count is the same for every `num` that suffices: sums run from the largest logit on, one by one (cumsum).
    """
    ordered = logits.topk(num).values
    rank = torch.arange(num, device=logits.device)
    within_k = (top_k <= 0) | (rank < top_k)
    mass = (ordered.exp() * within_k).cumsum(-1)
    total = mass[:, -1:]
    if bool((top_k <= 0).any()):
        # A plain sum of one row is shared out between threads: its bits would depend on being alone.
        total = torch.where(top_k > 0, total, logits.exp().cumsum(-1)[:, -1:])
    mass_before = torch.nn.functional.pad(mass[:, :-1], (1, 0))
    # top_p of 1 is off: rounding must not cost it the last tokens.
    within_p = (top_p >= 1) | (mass_before < top_p * total) | (rank == 0)
    return ordered, (within_k & within_p).sum(1, keepdim=True)
