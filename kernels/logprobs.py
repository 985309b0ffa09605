"""Log-probabilities of chosen tokens and of the most likely ones, by the target's raw law."""

# Kernel arguments bear no annotations: Triton reads them as code.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls

from dataclasses import dataclass

import torch
from torch import Tensor

from core.errors import ShapeError
from kernels.dispatch import takes_triton
from kernels.jit import jit, tl
from kernels.truncation import largest

# Logits read at once by one program; of each tile it remembers the largest that it has not reported yet.
TILE = 1024


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
    if takes_triton(logits):
        return token_logprobs_triton(logits, tokens, num_top)
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


def token_logprobs_triton(logits: Tensor, tokens: Tensor, num_top: int, tile: int = TILE) -> TokenScores:
    """Return what `token_logprobs` returns, reading each row once and one tile more for each of the most likely.

    x - max - log(sum of exp(x - max)), sums in float32 by tiles in order. Twin: log-probabilities within 1e-5, ids and
    ranks equal.
    """
    logits = logits.contiguous()
    num_rows, vocab = logits.shape
    num = min(num_top, vocab)
    device = logits.device
    logprob = torch.empty(num_rows, dtype=torch.float32, device=device)
    rank = torch.empty(num_rows, dtype=torch.int64, device=device)
    ids = torch.empty((num_rows, num), dtype=torch.int64, device=device)
    top = torch.empty((num_rows, num), dtype=torch.float32, device=device)
    if num_rows:
        tiles = 1 << (-(-vocab // tile) - 1).bit_length()
        outputs = logprob, rank, ids, top
        _scores_kernel[(num_rows,)](logits, tokens, *outputs, vocab, num, TILES=tiles, TILE=tile)
    return TokenScores(logprob, rank, ids, top)


@jit(do_not_specialize=("num",))
def _scores_kernel(
    logits, tokens, logprob, rank, top_ids, top_logprobs, vocab, num, TILES: tl.constexpr, TILE: tl.constexpr
):
    """Score one row."""
    index = tl.program_id(0).to(tl.int64)
    row = logits + index * vocab
    token = tl.load(tokens + index)
    own = tl.load(row + token)
    place, each = tl.arange(0, TILE), tl.arange(0, TILES)
    # Per tile the largest logit that is not reported, and how many there are.
    best = tl.full((TILES,), float("-inf"), tl.float32)
    left = tl.minimum(tl.maximum(vocab - each * TILE, 0), TILE)
    largest, total, before = float("-inf"), 0.0, 0
    for tile in range(tl.cdiv(vocab, TILE)):
        ids = tile * TILE + place
        value = tl.load(row + ids, mask=ids < vocab, other=float("-inf"))
        tile_best = tl.max(value, 0)
        best = tl.where(each == tile, tile_best, best)
        new_largest = tl.maximum(largest, tile_best)
        base = tl.where(new_largest == float("-inf"), 0.0, new_largest)
        total = total * tl.exp(largest - base) + tl.sum(tl.exp(value - base), 0)
        largest = new_largest
        is_before = ((value > own) | ((value == own) & (ids < token))) & (ids < vocab)
        before += tl.sum(is_before.to(tl.int32), 0)
    log_total = tl.log(total)
    tl.store(logprob + index, own - largest - log_total)
    tl.store(rank + index, before + 1)
    last, last_id = float("inf"), -1
    for k in range(num):
        top = tl.max(tl.where(left > 0, best, float("-inf")), 0)
        tile = tl.min(tl.where((left > 0) & (best == top), each, TILES - 1), 0)
        ids = tile * TILE + place
        is_id = ids < vocab
        value = tl.load(row + ids, mask=is_id, other=float("-inf"))
        is_left = is_id & ((value < last) | ((value == last) & (ids > last_id)))
        found = tl.min(tl.where(is_left & (value == top), ids, vocab - 1), 0)
        is_left = is_left & ((value < top) | (ids > found))
        rest = tl.max(tl.where(is_left, value, float("-inf")), 0)
        best = tl.where(each == tile, rest, best)
        left = tl.where(each == tile, left - 1, left)
        tl.store(top_ids + index * num + k, found.to(tl.int64))
        tl.store(top_logprobs + index * num + k, top - largest - log_total)
        last, last_id = top, found
