"""Rejection sampling over the vocabulary in tiles: no probability is ever written to memory.

The specification is `reference.reject`. Two launches: one program per verification row judges it and leaves the four
numbers that turn logits into probabilities; one program per sequence then draws the next token.
"""

# Kernel arguments bear no annotations: Triton reads them as code.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls

from typing import Any

import torch
from torch import Tensor

from core.tensors import Draft, Verdict
from kernels import reference
from kernels.dispatch import takes_triton
from kernels.jit import jit, tl
from kernels.shapes import check_reject

# Logits read at once by four warps: other sizes make ptxas spill a register (tests/kernels/compile_offline.py).
TILE = 2048


def reject(target_logits: Tensor, draft: Draft, lengths: Tensor, uniforms: Tensor) -> Verdict:
    """Return the verdict on a round, by the torch twin on the CPU and by Triton on a GPU (`reference.reject`)."""
    if takes_triton(target_logits):
        return reject_triton(target_logits, draft, lengths, uniforms)
    return reference.reject(target_logits, draft, lengths, uniforms)


def draw_next(target_logits: Tensor, uniforms: Tensor) -> Tensor:
    """Return the tokens i64 [B] that `reject` would draw from processed logits f32 [B, V] of rounds without drafts.

    uniforms f32 [B] in [0, 1)
    """
    if not takes_triton(target_logits):
        return reference.draw(target_logits.softmax(-1), uniforms)
    lengths = torch.zeros(len(uniforms), dtype=torch.int32, device=uniforms.device)
    nothing = lengths.to(torch.int64)[:, None][:, :0]
    draft = Draft(nothing, lengths, lengths.to(torch.bool), None, nothing.to(torch.float32))
    return reject_triton(target_logits, draft, lengths, uniforms[:, None]).next_token


def reject_triton(target_logits: Tensor, draft: Draft, lengths: Tensor, uniforms: Tensor, tile: int = TILE) -> Verdict:
    """Return what `reference.reject` returns; nothing is read back to the host.

    lengths are therefore not checked against the rows given: that is the caller's contract.
    p = exp(z - max) / sum exp(z - max), maxima and sums gathered tile by tile in ascending token id, all in float32; a
    draw from p takes the sum of p for 1.
    Twin: probabilities within 1e-5 relative, soft labels within 1e-5; accepted and next_token are equal but where a
    uniform falls within that distance of a boundary.
    """
    check_reject(target_logits, draft, lengths, uniforms)
    batch, width = draft.tokens.shape
    device = target_logits.device
    accepted = torch.empty(batch, dtype=torch.int32, device=device)
    next_token = torch.empty(batch, dtype=torch.int64, device=device)
    soft_labels = torch.empty((batch, width), dtype=torch.float32, device=device)
    if batch == 0:
        return Verdict(accepted, next_token, lengths, soft_labels)
    accepts = torch.empty((batch, width), dtype=torch.int8, device=device)
    norms = torch.empty((batch, width + 1, 4), dtype=torch.float32, device=device)
    first = (lengths.to(torch.int64) + 1).cumsum(0) - lengths - 1
    vocab = target_logits.shape[-1]
    q_logits = target_logits if draft.q_logits is None else draft.q_logits.contiguous()
    has_q = draft.q_logits is not None
    certain = draft.is_certain.contiguous()
    inputs = target_logits.contiguous(), q_logits, draft.tokens.contiguous(), certain, lengths, first
    shape: dict[str, Any] = {"vocab": vocab, "width": width, "HAS_Q": has_q, "TILE": tile}
    uniforms = uniforms.contiguous()
    _judge_kernel[(batch, width + 1)](*inputs, uniforms, accepts, norms, soft_labels, **shape)
    padded = 1 << width.bit_length()
    _draw_kernel[(batch,)](*inputs, uniforms, accepts, norms, accepted, next_token, **shape, WIDTH=padded)
    return Verdict(accepted, next_token, lengths, soft_labels)


@jit()
def _gather(largest, total, logit):
    """Fold a tile of logits into a running maximum and the sum of exponentials relative to it."""
    new_largest = tl.maximum(largest, tl.max(logit, 0))
    # A row may begin with tiles that are all -inf: their difference would be nan.
    base = tl.where(new_largest == float("-inf"), 0.0, new_largest)
    total = total * tl.exp(largest - base) + tl.sum(tl.exp(logit - base), 0)
    return new_largest, total


@jit()
def _judge_kernel(
    logits,
    q_logits,
    tokens,
    certain,
    lengths,
    first,
    uniforms,
    accepts,
    norms,
    soft_labels,
    vocab,
    width,
    HAS_Q: tl.constexpr,
    TILE: tl.constexpr,
):
    """Judge one row: maxima and sums of p and q, the accept bit u q(x) < p(x), the overlap sum min(p, q)."""
    sequence = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1)
    length = tl.load(lengths + sequence)
    is_draft = place < length
    is_row = place <= length
    row = logits + (tl.load(first + sequence) + tl.where(is_row, place, 0)) * vocab
    cell = sequence * width + tl.where(is_draft, place, 0)
    q_row = q_logits + cell * vocab
    has_q = is_draft & (tl.load(certain + cell, mask=is_draft, other=1) == 0)
    offset = tl.arange(0, TILE)
    # A row that is not there is read as an empty one.
    end = tl.where(is_row, vocab, 0)
    p_max, p_sum, q_max, q_sum = float("-inf"), 0.0, float("-inf"), 0.0
    for start in range(0, end, TILE):
        mask = start + offset < vocab
        p_max, p_sum = _gather(p_max, p_sum, tl.load(row + start + offset, mask=mask, other=float("-inf")))
        if HAS_Q:
            logit = tl.load(q_row + start + offset, mask=mask & has_q, other=float("-inf"))
            q_max, q_sum = _gather(q_max, q_sum, logit)
    # What is absent becomes harmless numbers: exp(-inf - 0) / 1 = 0.
    p_max, p_sum = tl.where(is_row, p_max, 0.0), tl.where(is_row, p_sum, 1.0)
    q_max, q_sum = tl.where(has_q, q_max, 0.0), tl.where(has_q, q_sum, 1.0)
    token = tl.load(tokens + cell, mask=is_draft, other=0)
    p_token = tl.exp(tl.load(row + token, mask=is_draft, other=float("-inf")) - p_max) / p_sum
    q_token = 1.0
    overlap = p_token
    if HAS_Q:
        q_at = tl.exp(tl.load(q_row + token, mask=has_q, other=float("-inf")) - q_max) / q_sum
        q_token = tl.where(has_q, q_at, 1.0)
        common = 0.0
        for start in range(0, tl.where(has_q, end, 0), TILE):
            mask = start + offset < vocab
            p = tl.exp(tl.load(row + start + offset, mask=mask, other=float("-inf")) - p_max) / p_sum
            q = tl.exp(tl.load(q_row + start + offset, mask=mask, other=float("-inf")) - q_max) / q_sum
            common += tl.sum(tl.minimum(p, q), 0)
        overlap = tl.where(has_q, common, p_token)
    uniform = tl.load(uniforms + sequence * (width + 1) + place)
    out = norms + (sequence * (width + 1) + place) * 4
    tl.store(out, p_max)
    tl.store(out + 1, p_sum)
    tl.store(out + 2, q_max)
    tl.store(out + 3, q_sum)
    is_cell = place < width
    cell = sequence * width + place
    tl.store(accepts + cell, (is_draft & (uniform * q_token < p_token)).to(tl.int8), mask=is_cell)
    tl.store(soft_labels + cell, tl.where(is_draft, overlap, 0.0), mask=is_cell)


@jit()
def _law(row, q_row, norm, token, ids, vocab, use_q, HAS_Q: tl.constexpr):
    """Return a tile of p, and of the residual: max(p - q, 0), or p without `token`; 0 past the vocabulary."""
    mask = ids < vocab
    p = tl.exp(tl.load(row + ids, mask=mask, other=float("-inf")) - tl.load(norm)) / tl.load(norm + 1)
    residual = tl.where(ids == token, 0.0, p)
    if HAS_Q:
        q = tl.exp(tl.load(q_row + ids, mask=mask & use_q, other=float("-inf")) - tl.load(norm + 2))
        difference = tl.maximum(p - q / tl.load(norm + 3), 0.0)
        residual = tl.where(use_q, difference, residual)
    return p, residual


@jit()
def _draw_kernel(
    logits,
    q_logits,
    tokens,
    certain,
    lengths,
    first,
    uniforms,
    accepts,
    norms,
    accepted,
    next_token,
    vocab,
    width,
    HAS_Q: tl.constexpr,
    TILE: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Count the accepted drafts of one sequence and draw its next token, ids ascending."""
    sequence = tl.program_id(0).to(tl.int64)
    length = tl.load(lengths + sequence)
    place = tl.arange(0, WIDTH)
    accept = tl.load(accepts + sequence * width + place, mask=place < length, other=0)
    count = tl.min(tl.where((accept != 0) & (place < length), WIDTH, place), 0)
    is_rejected = count < length
    tl.store(accepted + sequence, count)

    row = logits + (tl.load(first + sequence) + count) * vocab
    cell = sequence * width + tl.where(is_rejected, count, 0)
    q_row = q_logits + cell * vocab
    token = tl.load(tokens + cell, mask=is_rejected, other=-1)
    use_q = is_rejected & (tl.load(certain + cell, mask=is_rejected, other=1) == 0)
    norm = norms + (sequence * (width + 1) + count) * 4
    offset = tl.arange(0, TILE)
    residual_total = 0.0
    for start in range(0, tl.where(is_rejected, vocab, 0), TILE):
        _, residual = _law(row, q_row, norm, token, start + offset, vocab, use_q, HAS_Q)
        residual_total += tl.sum(residual, 0)
    use_residual = is_rejected & (residual_total > 0.0)
    uniform = tl.load(uniforms + sequence * (width + 1) + width)
    # p sums to 1 but for rounding. The first id whose cumulative mass passes the threshold is drawn; should rounding
    # let none pass, the last with any mass.
    threshold = uniform * tl.where(use_residual, residual_total, 1.0)
    base, found, last = 0.0, vocab, 0
    for start in range(0, vocab, TILE):
        ids = start + offset
        p, residual = _law(row, q_row, norm, token, ids, vocab, use_q, HAS_Q)
        mass = tl.where(use_residual, residual, p)
        passed = (base + tl.cumsum(mass, 0) > threshold) & (mass > 0.0)
        found = tl.minimum(found, tl.min(tl.where(passed, ids, vocab), 0))
        last = tl.maximum(last, tl.max(tl.where(mass > 0.0, ids, 0), 0))
        base += tl.sum(mass, 0)
    tl.store(next_token + sequence, tl.where(found < vocab, found, last).to(tl.int64))
