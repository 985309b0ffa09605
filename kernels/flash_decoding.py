"""The Triton kernels of attention over a paged cache: one attends to shares of contexts, one adds shares up.

The softmax is computed as the places come (Dao et al. 2022), shares of a context by different programs (flash-decoding:
Dao et al. 2023). kernels/ragged_attention.py launches them.
"""

# Kernel arguments bear no annotations: Triton reads them as code.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls

from kernels.jit import jit, tl


@jit()
def _find_tile(cu_rows, num_sequences, tile, ROWS: tl.constexpr):
    """Return the sequence whose begun tiles are counted before `tile`, and the tile's place in it."""
    # Not the constant 0, which would be no tensor where there is one sequence only.
    low, high = num_sequences * 0, num_sequences
    while high - low > 1:
        middle = (low + high) // 2
        if tl.load(cu_rows + middle) // ROWS + middle <= tile:
            low = middle
        else:
            high = middle
    return low, tile - (tl.load(cu_rows + low) // ROWS + low)


@jit()
def _attend_to(
    begin,
    end,
    first_place,
    query,
    seen_from,
    seen_to,
    keys,
    values,
    table,
    key_stride,
    value_stride,
    scale,
    DIM: tl.constexpr,
    DIM_PADDED: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HAS_FIRST: tl.constexpr,
    QUERIES: tl.constexpr,
    PLACES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Attend to places begin..end - 1, of which those before first_place are not read.

    Returns the maximum of the scores in powers of two, the sum of exponentials and of them times the values.
    """
    dim = tl.arange(0, DIM_PADDED)
    seen_to = tl.minimum(seen_to, end)
    num_seen = tl.maximum(seen_to - seen_from, 0).to(tl.uint32, bitcast=True)
    largest = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    mixed = tl.zeros((QUERIES, DIM_PADDED), tl.float32)
    for start in range(begin, end, PLACES):
        place = start + tl.arange(0, PLACES)
        # Places that are not to be read repeat one that is: loads need no masks, which cost registers, and what nobody
        # wrote, perhaps nan, is never met by a weight of 0.
        read = tl.minimum(place, end - 1)
        if HAS_FIRST:
            read = tl.maximum(read, first_place)
        block = tl.load(table + read // BLOCK_SIZE)
        cell = block.to(tl.int64) * BLOCK_SIZE + read % BLOCK_SIZE
        key_cell = keys + cell[None, :] * key_stride + dim[:, None]
        value_cell = values + cell[:, None] * value_stride + dim[None, :]
        if DIM == DIM_PADDED:  # noqa: SIM108
            key = tl.load(key_cell)
        else:
            key = tl.load(key_cell, mask=(dim < DIM)[:, None], other=0.0)
        score = tl.dot(query, key, input_precision=PRECISION) * scale
        if HAS_FIRST:
            # One comparison for both bounds: what lies before the first is a large number without a sign.
            is_seen = (place[None, :] - seen_from[:, None]).to(tl.uint32, bitcast=True) < num_seen[:, None]
        else:
            is_seen = place[None, :] < seen_to[:, None]
        score = tl.where(is_seen, score, float("-inf"))
        new_largest = tl.maximum(largest, tl.max(score, 1))
        # A row may see nothing of the first tiles: the difference of two -inf would be nan.
        base = tl.where(new_largest == float("-inf"), 0.0, new_largest)
        weight = tl.exp2(score - base[:, None])
        decay = tl.exp2(largest - base)
        largest = new_largest
        total = total * decay + tl.sum(weight, 1)
        if DIM == DIM_PADDED:  # noqa: SIM108
            value = tl.load(value_cell)
        else:
            value = tl.load(value_cell, mask=(dim < DIM)[None, :], other=0.0)
        mixed = mixed * decay[:, None] + tl.dot(weight.to(value.dtype), value, input_precision=PRECISION)
    return largest, total, mixed


@jit(do_not_specialize=("num_rows", "num_sequences", "table_stride", "head_base", "least_rows", "most_rows"))
def attend_kernel(
    q,
    keys,
    values,
    tables,
    cu_rows,
    visible,
    first,
    out,
    norms,
    num_rows,
    num_sequences,
    table_stride,
    q_stride,
    q_head_stride,
    key_stride,
    key_head_stride,
    value_stride,
    value_head_stride,
    num_out_heads,
    head_base,
    scale,
    least_rows,
    most_rows,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    DIM_PADDED: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HAS_FIRST: tl.constexpr,
    IS_WHOLE: tl.constexpr,
    SPLIT: tl.constexpr,
    QUERIES: tl.constexpr,
    PLACES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Attend with one tile of rows and one KV head: to all its context, to an even share, or to every n-th split.

    Only sequences of more than least_rows and up to most_rows rows are this launch's.
    """
    ROWS: tl.constexpr = QUERIES // GROUP
    sequence, tile = _find_tile(cu_rows, num_sequences, tl.program_id(0), ROWS)
    row_base = tl.load(cu_rows + sequence)
    count = tl.load(cu_rows + sequence + 1) - row_base
    if (tile * ROWS >= count) | (count <= least_rows) | (count > most_rows):
        return
    local_head = tl.program_id(1)
    head = head_base + local_head
    index = tl.arange(0, QUERIES)
    is_query = (index < ROWS * GROUP) & (tile * ROWS + index // GROUP < count)
    row = row_base + tile * ROWS + index // GROUP  # i64
    dim = tl.arange(0, DIM_PADDED)
    is_cell = is_query[:, None] & (dim < DIM)[None, :]
    query_head = head * GROUP + index % GROUP
    query = tl.load(
        q + row[:, None] * q_stride + query_head[:, None] * q_head_stride + dim[None, :], mask=is_cell, other=0.0
    )
    seen_to = tl.load(visible + row, mask=is_query, other=0).to(tl.int32)
    seen_from = tl.zeros_like(seen_to)
    begin = 0
    if HAS_FIRST:
        seen_from = tl.load(first + row, mask=is_query, other=2147483647).to(tl.int32)
        begin = tl.min(seen_from, 0)
    end = tl.max(seen_to, 0)
    # Tiles of places stand at fixed places, whichever row is asked for.
    aligned = begin // PLACES * PLACES
    keys += head.to(tl.int64) * key_head_stride
    values += head.to(tl.int64) * value_head_stride
    table = tables + sequence.to(tl.int64) * table_stride
    num_shares, share = tl.num_programs(2), tl.program_id(2)
    out_cell = row * num_out_heads + local_head * GROUP + index % GROUP
    part_stride = num_rows.to(tl.int64) * num_out_heads
    if SPLIT == 0:
        length = tl.cdiv(tl.cdiv(end - aligned, num_shares), PLACES) * PLACES
        share_begin = aligned + share * length
        share_end = tl.minimum(share_begin + length, end)
        largest, total, mixed = _attend_to(
            share_begin, share_end, begin, query, seen_from, seen_to, keys, values, table, key_stride, value_stride,
            scale, DIM, DIM_PADDED, BLOCK_SIZE, HAS_FIRST, QUERIES, PLACES, PRECISION,
        )  # fmt: skip
        if IS_WHOLE:
            out_cell = row * num_out_heads + query_head
            mixed = mixed / tl.where(total > 0.0, total, 1.0)[:, None]
            tl.store(out + out_cell[:, None] * DIM + dim[None, :], mixed.to(out.dtype.element_ty), mask=is_cell)
        else:
            cell = share * part_stride + out_cell
            tl.store(norms + cell * 2, largest, mask=is_query)
            tl.store(norms + cell * 2 + 1, total, mask=is_query)
            tl.store(out + cell[:, None] * DIM + dim[None, :], mixed, mask=is_cell)
    else:
        for split in range(aligned // SPLIT + share, tl.cdiv(end, SPLIT), num_shares):
            split_begin = tl.maximum(split * SPLIT, aligned)
            split_end = tl.minimum((split + 1) * SPLIT, end)
            largest, total, mixed = _attend_to(
                split_begin, split_end, begin, query, seen_from, seen_to, keys, values, table, key_stride,
                value_stride, scale, DIM, DIM_PADDED, BLOCK_SIZE, HAS_FIRST, QUERIES, PLACES, PRECISION,
            )  # fmt: skip
            cell = split * part_stride + out_cell
            tl.store(norms + cell * 2, largest, mask=is_query)
            tl.store(norms + cell * 2 + 1, total, mask=is_query)
            tl.store(out + cell[:, None] * DIM + dim[None, :], mixed, mask=is_cell)


@jit(do_not_specialize=("num_rows", "num_parts", "head_base", "most_rows"))
def add_up_kernel(
    mixed,
    norms,
    cu_rows,
    sequence,
    visible,
    first,
    out,
    num_rows,
    num_parts,
    num_part_heads,
    num_heads,
    head_base,
    most_rows,
    GROUP: tl.constexpr,
    GROUP_PADDED: tl.constexpr,
    DIM: tl.constexpr,
    DIM_PADDED: tl.constexpr,
    HAS_FIRST: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """Add up the partial results of one row and one KV head in order of place.

    With fixed splits only those that the row sees are there to be read; even shares all are.
    """
    row = tl.program_id(0).to(tl.int64)
    owner = tl.load(sequence + row)
    end = tl.load(cu_rows + owner + 1)
    if (row >= end) | (end - tl.load(cu_rows + owner) > most_rows):
        return
    start, stop = 0, num_parts
    if SPLIT > 0:
        stop = tl.cdiv(tl.load(visible + row), SPLIT).to(tl.int32)
        if HAS_FIRST:
            start = (tl.load(first + row) // SPLIT).to(tl.int32)
    local_head = tl.program_id(1)
    index = tl.arange(0, GROUP_PADDED)
    is_head = index < GROUP
    dim = tl.arange(0, DIM_PADDED)
    is_cell = is_head[:, None] & (dim < DIM)[None, :]
    base = row * num_part_heads + local_head * GROUP + index
    part_stride = num_rows.to(tl.int64) * num_part_heads
    largest = tl.full((GROUP_PADDED,), float("-inf"), tl.float32)
    for part in range(start, stop):
        cell = base + part * part_stride
        largest = tl.maximum(largest, tl.load(norms + cell * 2, mask=is_head, other=float("-inf")))
    largest = tl.where(largest == float("-inf"), 0.0, largest)
    total = tl.zeros((GROUP_PADDED,), tl.float32)
    result = tl.zeros((GROUP_PADDED, DIM_PADDED), tl.float32)
    for part in range(start, stop):
        cell = base + part * part_stride
        weight = tl.exp2(tl.load(norms + cell * 2, mask=is_head, other=float("-inf")) - largest)
        total += weight * tl.load(norms + cell * 2 + 1, mask=is_head, other=0.0)
        result += weight[:, None] * tl.load(mixed + cell[:, None] * DIM + dim[None, :], mask=is_cell, other=0.0)
    result = result / tl.where(total > 0.0, total, 1.0)[:, None]
    out_cell = row * num_heads + (head_base + local_head) * GROUP + index
    tl.store(out + out_cell[:, None] * DIM + dim[None, :], result.to(out.dtype.element_ty), mask=is_cell)
