"""Log-probabilities of chosen tokens and of the most likely ones, by the target's raw law.

No Triton kernel serves this yet: torch computes it on any device.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from core.errors import ShapeError
from kernels.truncation import largest


@dataclass(frozen=True, slots=True)
class TokenScores:
    """What N rows say about N tokens, K = min(num_top, V).

    logprob       f32 [N]
    rank          i64 [N]; 1 is the most likely token
    top_ids       i64 [N, K]; the most likely first, the lower id first of equals
    top_logprobs  f32 [N, K]
    """

    logprob: Tensor
    rank: Tensor
    top_ids: Tensor
    top_logprobs: Tensor


def token_logprobs(logits: Tensor, tokens: Tensor, num_top: int) -> TokenScores:
    """Score one token per row, and the num_top most likely ones.

    logits  f32 [N, V]; raw, before any processing
    tokens  i64 [N]
    Log-probabilities are a float32 log_softmax of each row by itself, whatever other rows there are; ranks compare the
    logits, and of equal ones the lower id comes first.
    Raises ShapeError if tokens are not [N].
    """
    if tokens.shape != logits.shape[:1]:
        raise ShapeError(f"tokens must be [{len(logits)}], got {list(tokens.shape)}")
    logprobs = logits.log_softmax(-1)
    own = logits.gather(1, tokens[:, None])
    is_lower_id = torch.arange(logits.shape[-1], device=logits.device) < tokens[:, None]
    rank = 1 + ((logits > own) | ((logits == own) & is_lower_id)).sum(1)
    ids = _top_ids(logits, min(num_top, logits.shape[-1]))
    return TokenScores(logprobs.gather(1, tokens[:, None]).squeeze(1), rank, ids, logprobs.gather(1, ids))


def _top_ids(logits: Tensor, num: int) -> Tensor:
    """Return the ids of each row's largest logits, i64 [N, num]: topk alone takes any of equals."""
    if num == 0:
        return torch.empty((len(logits), 0), dtype=torch.int64, device=logits.device)
    counts = torch.full((len(logits), 1), num, device=logits.device)
    is_top = largest(logits, logits.topk(num).values, counts)
    ids = is_top.nonzero()[:, 1].view(len(logits), num)  # ascending
    order = logits.gather(1, ids).sort(stable=True, dim=-1, descending=True).indices
    return ids.gather(1, order)
