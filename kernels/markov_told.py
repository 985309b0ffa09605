"""What the bias of a slot is W2 times: the vector of rank r that a sequential head makes of the token before the slot.

One program per sequence, inside the fold of kernels/markov.py and, before the first slot, by itself. The twins are the
`step` methods of models/markov_heads.py.
"""

# Kernel arguments bear no annotations: Triton reads them as code.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls

from kernels.jit import jit, tl

VANILLA, GATED, RECURRENT = 0, 1, 2


@jit(do_not_specialize=("batch",))
def start_kernel(
    anchors,
    w1,
    own,
    gates,
    state,
    told,
    batch,
    width,
    own_stride,
    RANK: tl.constexpr,
    KIND: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Make what the bias of the first slot reads."""
    row = tl.program_id(0)
    token = tl.load(anchors + row)
    tell(token, row, 0, w1, own, gates, state, told, batch, width, own_stride, RANK, KIND, WIDE, ROWS)


@jit()
def tell(
    token,
    row,
    slot,
    w1,
    own,
    gates,
    state,
    told,
    batch,
    width,
    own_stride,
    RANK: tl.constexpr,
    KIND: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Write the vector [r] that W2 makes the bias of `slot` from: e, gated e, or what a recurrent state gives out."""
    column = tl.arange(0, WIDE)
    is_column = column < RANK
    e_at = w1 + token * RANK
    e = tl.load(e_at + column, mask=is_column, other=0.0).to(tl.float32)
    if KIND == 0:
        tl.store(told + row * RANK + column, e.to(told.dtype.element_ty), mask=is_column)
    if KIND == 1:
        gate_at = gates + (row * width + slot) * RANK
        for start in range(0, RANK, ROWS):
            index = start + tl.arange(0, ROWS)
            is_index = index < RANK
            gate = tl.load(gate_at + index, mask=is_index, other=0.0)
            gate += _product(own, index, 0, e, own_stride, RANK, WIDE)
            value = tl.sigmoid(gate) * tl.load(e_at + index, mask=is_index, other=0.0).to(tl.float32)
            tl.store(told + row * RANK + index, value.to(told.dtype.element_ty), mask=is_index)
    if KIND == 2:
        old = state + ((slot % 2) * batch + row) * RANK
        new = state + (((slot + 1) % 2) * batch + row) * RANK
        s = tl.load(old + column, mask=is_column, other=0.0)
        joint_at = gates + (row * width + slot) * 3 * RANK
        for start in range(0, RANK, ROWS):
            index = start + tl.arange(0, ROWS)
            is_index = index < RANK
            gate = tl.load(joint_at + index, mask=is_index, other=0.0)
            gate += _product(own, index, 0, s, own_stride, RANK, WIDE)
            gate += _product(own + RANK, index, 0, e, own_stride, RANK, WIDE)
            candidate = tl.load(joint_at + RANK + index, mask=is_index, other=0.0)
            candidate += _product(own, index, RANK, s, own_stride, RANK, WIDE)
            candidate += _product(own + RANK, index, RANK, e, own_stride, RANK, WIDE)
            output = tl.load(joint_at + 2 * RANK + index, mask=is_index, other=0.0)
            output += _product(own, index, 2 * RANK, s, own_stride, RANK, WIDE)
            output += _product(own + RANK, index, 2 * RANK, e, own_stride, RANK, WIDE)
            kept = tl.sigmoid(gate)
            before = tl.load(old + index, mask=is_index, other=0.0)
            tl.store(new + index, kept * before + (1.0 - kept) * _tanh(candidate), mask=is_index)
            tl.store(told + row * RANK + index, _tanh(output).to(told.dtype.element_ty), mask=is_index)


@jit()
def _product(weight, index, first, x, stride, RANK: tl.constexpr, WIDE: tl.constexpr):
    """Return rows first + index of a weight times x [WIDE], of which RANK count."""
    column = tl.arange(0, WIDE)
    mask = (index < RANK)[:, None] & (column < RANK)[None, :]
    tile = tl.load(weight + (first + index)[:, None] * stride + column[None, :], mask=mask, other=0.0)
    return tl.sum(tile.to(tl.float32) * x[None, :], 1)


@jit()
def _tanh(x):
    return 2.0 * tl.sigmoid(2.0 * x) - 1.0
