"""The coupled verifier: the target draws with the drafter's own noise, and a draft is kept while the two agree.

What a request says is then a function of its target, its parameters and its key (docs/exactness.md, section 5). On a
GPU the noise need not exist in memory: given what names it, the kernel makes each number where it is needed.
"""

# Kernel arguments bear no annotations: Triton reads them as code.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls

import torch
from torch import Tensor

from core.errors import ShapeError
from core.tensors import CoupledKeys, Draft, Verdict
from kernels import reference
from kernels.dispatch import takes_triton
from kernels.jit import jit, tl
from kernels.noise import numbers_of
from kernels.philox import gumbel as gumbel_of
from kernels.philox import rough_gumbel, row_words

# Logits read at once by one program.
TILE = 1024


def couple(target_logits: Tensor, draft: Draft, lengths: Tensor, gumbel: Tensor | CoupledKeys) -> Verdict:
    """Judge drafts by target rows f32 [N, V] and noise f32 [B, G + 1, V] (`reference.couple`).

    In place of the noise may stand what names it, with column 0 at the token after the anchor.
    """
    if takes_triton(target_logits):
        return couple_triton(target_logits, draft, lengths, gumbel)
    if isinstance(gumbel, CoupledKeys):
        gumbel = numbers_of(gumbel, draft.tokens.shape[1] + 1, target_logits.shape[-1])
    return reference.couple(target_logits, draft, lengths, gumbel)


def draw_coupled(logits: Tensor, gumbel: Tensor | CoupledKeys) -> Tensor:
    """Draw a token from each of logits f32 [..., V] with noise f32 [..., V]; i64 [...] (`reference.draw_coupled`).

    What names the noise stands for that of column 0, for logits [B, V].
    """
    if takes_triton(logits):
        return draw_coupled_triton(logits, gumbel)
    if isinstance(gumbel, CoupledKeys):
        gumbel = numbers_of(gumbel, 1, logits.shape[-1])[:, 0]
    return reference.draw_coupled(logits, gumbel)


def keep_drawn(drawn: Tensor, draft: Draft, lengths: Tensor) -> Verdict:
    """Judge drafts by the tokens i64 [N] that the target drew in their rows (`reference.keep_drawn`)."""
    if takes_triton(drawn):
        return keep_drawn_triton(drawn, draft, lengths)
    return reference.keep_drawn(drawn, draft, lengths)


def couple_triton(target_logits: Tensor, draft: Draft, lengths: Tensor, gumbel: Tensor | CoupledKeys) -> Verdict:
    """Return what `reference.couple` returns; nothing is read back to the host, so lengths are not checked.

    (logits - max) + noise in float32, the lowest id of equals: the twin's very sums. Noise by its name is made twice:
    roughly for all tokens, within 1e-5, and as kernels/noise.py makes it in tiles that come near the best.
    Twin: equal. Raises ShapeError if the noise does not fit.
    """
    batch, width = draft.tokens.shape
    vocab = target_logits.shape[-1]
    if isinstance(gumbel, Tensor) and gumbel.shape != (batch, width + 1, vocab):
        raise ShapeError(f"couple takes gumbel {[batch, width + 1, vocab]}, got {list(gumbel.shape)}")
    return keep_drawn_triton(_race(target_logits, lengths, width, gumbel), draft, lengths)


def draw_coupled_triton(logits: Tensor, gumbel: Tensor | CoupledKeys) -> Tensor:
    """Return what `reference.draw_coupled` returns; noise by its name as in `draw_coupled`."""
    rows = logits.reshape(-1, logits.shape[-1])
    if isinstance(gumbel, Tensor):
        gumbel = gumbel.reshape(len(rows), 1, -1)
    lengths = torch.zeros(len(rows), dtype=torch.int32, device=rows.device)
    return _race(rows, lengths, 0, gumbel).view(logits.shape[:-1])


def keep_drawn_triton(drawn: Tensor, draft: Draft, lengths: Tensor) -> Verdict:
    """Return what `reference.keep_drawn` returns. Twin: equal."""
    batch, width = draft.tokens.shape
    accepted = torch.empty(batch, dtype=torch.int32, device=drawn.device)
    next_token = torch.empty(batch, dtype=torch.int64, device=drawn.device)
    labels = torch.empty((batch, width), dtype=torch.float32, device=drawn.device)
    if batch:
        arguments = drawn, draft.tokens.contiguous(), lengths, first_rows(lengths), accepted, next_token, labels
        _keep_kernel[(batch,)](*arguments, width, WIDTH=1 << width.bit_length())
    return Verdict(accepted, next_token, lengths, labels)


def first_rows(lengths: Tensor) -> Tensor:
    """Return where each sequence's rows begin among ragged ones, i64 [B]."""
    return (lengths.to(torch.int64) + 1).cumsum(0) - lengths - 1


def _race(logits: Tensor, lengths: Tensor, width: int, gumbel: Tensor | CoupledKeys) -> Tensor:
    """Return argmax(logits + noise) of every ragged row, i64 [N]."""
    logits = logits.contiguous()
    num_rows, vocab = logits.shape
    drawn = torch.empty(num_rows, dtype=torch.int64, device=logits.device)
    if not num_rows:
        return drawn
    num_tiles = -(-vocab // TILE)
    best = torch.empty((len(lengths), width + 1, num_tiles), dtype=torch.float32, device=logits.device)
    if isinstance(gumbel, Tensor):
        # Pointers that are not read.
        noise, names = gumbel.contiguous(), (lengths,) * 4
    else:
        noise, names = logits, (gumbel.low, gumbel.high, gumbel.child, gumbel.first)
    grid = (len(lengths), width + 1)
    arguments = logits, noise, *names, lengths, first_rows(lengths), best, drawn, vocab, width, num_tiles
    _race_kernel[grid](*arguments, NAMED=not isinstance(gumbel, Tensor), TILE=TILE)
    return drawn


@jit()
def _race_kernel(
    logits,
    noise,
    low,
    high,
    child,
    first_position,
    lengths,
    first,
    best,
    drawn,
    vocab,
    width,
    num_tiles,
    NAMED: tl.constexpr,
    TILE: tl.constexpr,
):
    """Draw the token of one row."""
    sequence = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1)
    is_row = place <= tl.load(lengths + sequence)
    index = tl.load(first + sequence) + tl.where(is_row, place, 0)
    row = logits + index * vocab
    cell = sequence * (width + 1) + place
    noise_row = noise + cell * vocab
    offset = tl.arange(0, TILE)
    k0, k1, position, number = 0, 0, 0, 0
    if NAMED:
        k0, k1 = tl.load(low + sequence).to(tl.uint32), tl.load(high + sequence).to(tl.uint32)
        position = (tl.load(first_position + sequence) + place).to(tl.uint32)
        number = tl.load(child + sequence).to(tl.uint32)
    largest, leader = float("-inf"), float("-inf")
    num = tl.where(is_row, num_tiles, 0)
    for tile in range(num):
        ids = tile * TILE + offset
        logit = tl.load(row + ids, mask=ids < vocab, other=float("-inf"))
        largest = tl.maximum(largest, tl.max(logit, 0))
        if NAMED:
            score = logit + rough_gumbel(row_words(k0, k1, position, number, tile * TILE, TILE))
            tile_best = tl.max(score, 0)
            tl.store(best + cell * num_tiles + tile, tile_best)
            leader = tl.maximum(leader, tile_best)
    # What rough noise and the rounding of sums may be wrong by, many times over: a wider gap costs a tile more.
    leader = leader - 1e-3 - 1e-6 * tl.abs(largest)
    tl.debug_barrier()
    score_best, found = float("-inf"), vocab
    for tile in range(num):
        is_near = True
        if NAMED:
            is_near = tl.load(best + cell * num_tiles + tile) >= leader
        if is_near:
            ids = tile * TILE + offset
            logit = tl.load(row + ids, mask=ids < vocab, other=float("-inf"))
            if NAMED:
                made = gumbel_of(row_words(k0, k1, position, number, tile * TILE, TILE))
            else:
                made = tl.load(noise_row + ids, mask=ids < vocab, other=0.0)
            score = (logit - largest) + made
            tile_best = tl.max(score, 0)
            tile_id = tl.min(tl.where(score == tile_best, ids, vocab), 0)
            found = tl.where(tile_best > score_best, tile_id, found)
            score_best = tl.maximum(score_best, tile_best)
    tl.store(drawn + index, tl.where(found < vocab, found, 0).to(tl.int64), mask=is_row)


@jit()
def _keep_kernel(drawn, tokens, lengths, first, accepted, next_token, labels, width, WIDTH: tl.constexpr):
    """Count the drafts of one sequence that are the tokens drawn, and pass on the token at the first that is not."""
    sequence = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, WIDTH)
    length = tl.load(lengths + sequence)
    is_draft = place < length
    row = tl.load(first + sequence)
    own = tl.load(drawn + row + place, mask=is_draft, other=-1)
    drafted = tl.load(tokens + sequence * width + place, mask=is_draft, other=-2)
    count = tl.min(tl.where(own == drafted, WIDTH, place), 0)
    tl.store(accepted + sequence, count)
    tl.store(next_token + sequence, tl.load(drawn + row + count))
    tl.store(labels + sequence * width + place, tl.where(place < count, 1.0, 0.0), mask=place < width)
