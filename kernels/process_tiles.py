"""Logit processing by Triton, one program per row: edits in one launch, temperature and truncation in another.

The specification is `reference.process`. No row is sorted: kernels/selection.py finds the least logit that is kept, and
a last pass over the row writes what is not less. Reads of a row: two, one more if anything is truncated, and short ones
over those few logits that could be the last kept; writes: one.
"""

# Kernel arguments bear no annotations: Triton reads them as code.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls

from typing import Any

import torch
from torch import Tensor

from core.errors import ShapeError
from core.tensors import Allowed, Edits, LawRows, Processing
from kernels.jit import jit, tl
from kernels.selection import bucket_of, descend, key_of, load_value, value_of

# Logits read at once; in passes that add up sixteen digits at a time.
TILE, DIGIT_TILE = 2048, 512
WARPS = 8


def process_triton(logits: Tensor, processing: Processing, rows: LawRows, tile: int = TILE) -> Tensor:
    """Return what `reference.process` returns; nothing is read back to the host.

    Edits, temperature and min-p are the twin's operations in its order, in float32; of top-k the same tokens are left.
    top-p adds up float32 masses in another order than the twin's falling one: it may leave a token more or less where
    the mass before it lies within 1e-5 of the limit. A row's result does not depend on the rest of the batch.
    Twin: within 1e-6 where a token is left.
    """
    logits = logits.contiguous()
    if rows.allowed is not None or processing.edits is not None:
        logits = edit_triton(logits, processing.edits, rows, tile)
    if processing.is_plain or not logits.numel():
        return logits
    laws = torch.empty_like(logits)
    limits = processing.temperature, processing.top_k, processing.top_p, processing.min_p.log()
    constants: dict[str, Any] = {"TRUNCATES": processing.truncates, "TILE": tile, "DIGIT_TILE": min(tile, DIGIT_TILE)}
    arguments = logits, laws, rows.sequence, *limits, logits.shape[1]
    _law_kernel[(len(logits),)](*arguments, **constants, num_warps=WARPS)
    return laws


def edit_triton(logits: Tensor, edits: Edits | None, rows: LawRows, tile: int = TILE) -> Tensor:
    """Return logits f32 [N, V] without what grammars forbid, then edited as kernels/edits.py does. Twin: within 1e-5.

    Raises ShapeError if there are fewer bits than tokens. That penalties come with counts is the caller's contract.
    """
    num_rows, vocab = logits.shape
    edited = torch.empty_like(logits)
    if not logits.numel():
        return edited
    bits, bits_row = logits, rows.sequence
    if rows.allowed is not None:
        bits, bits_row = _bits(rows.allowed, num_rows, vocab)
    nothing, drafts = rows.sequence, rows.sequence[:, None] if rows.drafts is None else rows.drafts.contiguous()
    asked: tuple[Tensor, ...] = (logits, logits, logits, logits, logits, logits, nothing, nothing, nothing)
    widths = (0, 0)
    if edits is not None:
        counts = logits if edits.counts is None else edits.counts
        in_prompt = logits if edits.in_prompt is None else edits.in_prompt
        penalties = edits.repetition, edits.frequency, edits.presence
        asked = edits.bias, *penalties, counts, in_prompt, edits.bias_ids, edits.ban_ids, edits.min_left
        widths = edits.bias_ids.shape[1], edits.ban_ids.shape[1]
    constants = {
        "HAS_BITS": rows.allowed is not None,
        "HAS_COUNTS": edits is not None and edits.counts is not None,
        "HAS_DRAFTS": rows.drafts is not None,
        "BIASES": _padded(widths[0]),
        "BANS": _padded(widths[1]),
        "TILE": tile,
    }
    sizes = vocab, bits.shape[-1], drafts.shape[1], *widths
    arguments = logits, edited, rows.sequence, rows.offset, drafts, bits, bits_row, *asked, *sizes
    _edit_kernel[(num_rows,)](*arguments, **constants, num_warps=WARPS)
    return edited


def _bits(allowed: Allowed, num_rows: int, vocab: int) -> tuple[Tensor, Tensor]:
    """Return the bits u8 [M, K] and of each of num_rows rows which are its, i64 [N], -1 for none."""
    if allowed.bits.shape[1] * 8 < vocab:
        raise ShapeError(f"{vocab} tokens need {-(-vocab // 8)} bytes of bits, got {allowed.bits.shape[1]}")
    places = torch.arange(len(allowed.rows), device=allowed.rows.device)
    row = torch.full((num_rows,), -1, dtype=torch.int64, device=places.device).index_copy_(0, allowed.rows, places)
    return allowed.bits.contiguous(), row


def _padded(width: int) -> int:
    """Return the least power of two that is not less, 0 for 0."""
    return 1 << (width - 1).bit_length() if width else 0


@jit(do_not_specialize=("num_bits", "num_drafts", "num_biases", "num_bans"))
def _edit_kernel(
    logits,
    edited,
    sequence,
    offset,
    drafts,
    bits,
    bits_row,
    bias,
    repetition,
    frequency,
    presence,
    counts,
    in_prompt,
    bias_ids,
    ban_ids,
    min_left,
    vocab,
    num_bits,
    num_drafts,
    num_biases,
    num_bans,
    HAS_BITS: tl.constexpr,
    HAS_COUNTS: tl.constexpr,
    HAS_DRAFTS: tl.constexpr,
    BIASES: tl.constexpr,
    BANS: tl.constexpr,
    TILE: tl.constexpr,
):
    """Copy one row, strike out what its grammar forbids, add biases, apply penalties, ban."""
    index = tl.program_id(0).to(tl.int64)
    owner = tl.load(sequence + index)
    row, out = logits + index * vocab, edited + index * vocab
    place = tl.arange(0, TILE)
    word_row = bits
    has_bits = False
    if HAS_BITS:
        own_bits = tl.load(bits_row + index)
        has_bits = own_bits >= 0
        word_row = bits + tl.where(has_bits, own_bits, 0) * num_bits
    for start in range(0, vocab, TILE):
        ids = start + place
        value = tl.load(row + ids, mask=ids < vocab, other=0.0)
        if HAS_BITS:
            byte = tl.load(word_row + ids // 8, mask=(ids < vocab) & has_bits, other=255).to(tl.int32)
            value = tl.where(((byte >> (ids % 8)) & 1) != 0, value, float("-inf"))
        tl.store(out + ids, value, mask=ids < vocab)
    # Other threads wrote what this one edits.
    tl.debug_barrier()
    if BIASES > 0:
        entry = tl.arange(0, BIASES)
        at = tl.load(bias_ids + owner * num_biases + entry, mask=entry < num_biases, other=-1)
        more = tl.load(bias + owner * num_biases + entry, mask=at >= 0, other=0.0)
        tl.store(out + at, tl.load(out + at, mask=at >= 0, other=0.0) + more, mask=at >= 0)
        tl.debug_barrier()
    if HAS_COUNTS:
        divisor, per_count = tl.load(repetition + owner), tl.load(frequency + owner)
        once = tl.load(presence + owner)
        is_penalised = (divisor != 1.0) | (per_count != 0.0) | (once != 0.0)
        num_before = 0
        if HAS_DRAFTS:
            num_before = tl.minimum(tl.load(offset + index), num_drafts).to(tl.int32)
        for start in range(0, tl.where(is_penalised, vocab, 0), TILE):
            ids = start + place
            is_id = ids < vocab
            value = tl.load(out + ids, mask=is_id, other=0.0)
            count = tl.load(counts + owner * vocab + ids, mask=is_id, other=0)
            for j in range(num_before):
                count += (ids == tl.load(drafts + owner * num_drafts + j)).to(tl.int32)
            is_seen = (tl.load(in_prompt + owner * vocab + ids, mask=is_id, other=0) != 0) | (count > 0)
            repeated = tl.where(value > 0.0, value / divisor, value * divisor)
            value = tl.where(is_seen, repeated, value)
            value = value - per_count * count.to(tl.float32) - tl.where(count > 0, once, 0.0)
            # A repetition penalty near 0 may overflow, and infinities would leave no law.
            tl.store(out + ids, tl.minimum(value, 3.4028234663852886e38), mask=is_id)
        tl.debug_barrier()
    if BANS > 0:
        entry = tl.arange(0, BANS)
        is_early = tl.load(offset + index) < tl.load(min_left + owner)
        at = tl.load(ban_ids + owner * num_bans + entry, mask=(entry < num_bans) & is_early, other=-1)
        kept = tl.load(out + at, mask=at >= 0, other=0.0)
        tl.debug_barrier()
        tl.store(out + at, tl.where(at >= 0, float("-inf"), 0.0), mask=at >= 0)
        tl.debug_barrier()
        largest = tl.full((), float("-inf"), tl.float32)
        for start in range(0, tl.where(is_early, vocab, 0), TILE):
            ids = start + place
            largest = tl.maximum(largest, tl.max(tl.load(out + ids, mask=ids < vocab, other=float("-inf")), 0))
        # A ban that would leave nothing is undone.
        is_empty = (largest == float("-inf")).to(tl.int32)
        tl.store(out + at, kept, mask=(at >= 0) & (is_empty != 0))


@jit()
def _law_kernel(
    logits,
    laws,
    sequence,
    temperature,
    top_k,
    top_p,
    log_min_p,
    vocab,
    TRUNCATES: tl.constexpr,
    TILE: tl.constexpr,
    DIGIT_TILE: tl.constexpr,
):
    """Write the law's logits of one row, the largest 0; meanwhile its place holds those that could be the last kept."""
    index = tl.program_id(0).to(tl.int64)
    owner = tl.load(sequence + index)
    row, out = logits + index * vocab, laws + index * vocab
    place = tl.arange(0, TILE)
    largest, best = float("-inf"), 0
    for start in range(0, vocab, TILE):
        ids = start + place
        value = tl.load(row + ids, mask=ids < vocab, other=float("-inf"))
        tile_best = tl.max(value, 0)
        tile_id = tl.min(tl.where(value == tile_best, ids, vocab), 0)
        best = tl.where(tile_best > largest, tile_id, best)
        largest = tl.maximum(largest, tile_best)
    heat = tl.load(temperature + owner)
    is_greedy = heat == 0.0
    heat = tl.where(is_greedy, 1.0, heat)
    # Kept are all keys before `last`, and so many of those that are equal to it, by ascending id.
    last, num_last = tl.full((), 1 << 32, tl.int64), 0.0
    floor = float("-inf")
    if TRUNCATES:
        floor = tl.load(log_min_p + owner)
        most, share = tl.minimum(tl.load(top_k + owner), vocab).to(tl.int32), tl.load(top_p + owner)
        if ((most > 0) | (share < 1.0)) & (is_greedy == 0):
            last, num_last = _last_kept(row, out, vocab, largest, heat, most, share, TILE, DIGIT_TILE)
    seen = 0.0
    for start in range(0, vocab, TILE):
        ids = start + place
        value = load_value(row, ids, vocab, largest, heat)
        is_kept = value >= floor
        if TRUNCATES:
            key = key_of(value).to(tl.int64)
            is_last = (key == last) & (ids < vocab)
            rank = seen + tl.cumsum(is_last.to(tl.float32), 0)
            is_kept = is_kept & ((key < last) | (is_last & (rank <= num_last)))
            seen += tl.sum(is_last.to(tl.float32), 0)
        value = tl.where(is_kept, value, float("-inf"))
        value = tl.where(is_greedy, tl.where(ids == best, 0.0, float("-inf")), value)
        tl.store(out + ids, value, mask=ids < vocab)


@jit()
def _last_kept(row, out, vocab, largest, heat, most, share, TILE: tl.constexpr, DIGIT_TILE: tl.constexpr):
    """Return the key of the last logit that top-k and top-p keep, and how many of its equals are; `out` is overwritten.

    most   top-k, 0 for off
    share  top-p, 1 for off
    """
    place = tl.arange(0, TILE)
    bucket = tl.arange(0, 256)
    number = tl.zeros((256,), tl.int32)
    mass = 0.0
    for start in range(0, vocab, TILE):
        value = load_value(row, start + place, vocab, largest, heat)
        mass += tl.sum(tl.exp(value), 0)
        number += tl.histogram(bucket_of(value, 0.0), 256)
    # What lies past a bucket has at most this mass.
    bound = number.to(tl.float32) * tl.exp(bucket.to(tl.float32) * -0.125)
    past = tl.cumsum(bound, 0, reverse=True) - bound
    is_enough = tl.where(most > 0, tl.cumsum(number, 0) >= most, past <= 0.999 * (1.0 - share) * mass)
    widest = tl.min(tl.where(is_enough, bucket, 255), 0)
    num = 0
    for start in range(0, vocab, TILE):
        ids = start + place
        value = load_value(row, ids, vocab, largest, heat)
        is_candidate = (bucket_of(value, 0.0) <= widest) & (ids < vocab)
        at = num + tl.cumsum(is_candidate.to(tl.int32), 0) - 1
        tl.store(out + at, value, mask=is_candidate)
        num += tl.sum(is_candidate.to(tl.int32), 0)
    tl.debug_barrier()
    last, num_last = tl.full((), 1 << 32, tl.int64), 0.0
    if most > 0:
        last, before = descend(out, num, 0.0, 1.0, 0.0, 0.0, most.to(tl.float32), False, DIGIT_TILE)
        num_last = most.to(tl.float32) - before
        mass = num_last * tl.exp(value_of(last))
        for start in range(0, num, TILE):
            value = load_value(out, start + place, num, 0.0, 1.0)
            is_before = key_of(value).to(tl.int64) < last
            mass += tl.sum(tl.where(is_before, tl.exp(value), 0.0), 0)
    if share < 1.0:
        nucleus, before = descend(out, num, 0.0, 1.0, 0.0, share, mass, True, DIGIT_TILE)
        # The first of all is kept whatever the limit.
        num_equal = tl.maximum(tl.ceil((share * mass - before) / tl.exp(value_of(nucleus))), 1.0)
        num_last = tl.where(nucleus == last, tl.minimum(num_last, num_equal), num_last)
        num_last = tl.where(nucleus < last, num_equal, num_last)
        last = tl.minimum(last, nucleus)
    tl.debug_barrier()
    return last, num_last
