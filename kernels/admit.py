"""Admission: how many drafts of each sequence go to verification. The one function that sees live survival.

`reference.admit` is the specification, core/planning.py has the rules, kernels/admit_host.py the body for the CPU.
"""

# Kernel arguments bear no annotations: Triton reads them as code.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls

import torch
from torch import Tensor

from core.errors import EngineError
from core.planning import EarlyStop, FixedLength, Rule, Threshold, TopK
from core.tensors import Favour
from kernels import reference
from kernels.admit_host import admit_host
from kernels.dispatch import takes_triton
from kernels.jit import jit, tl
from kernels.shapes import check_admit

# Slots compared at once; a program holds SLOTS x SLOTS comparisons in registers.
SLOTS = 32
NEVER = 2**31 - 1
FLOAT_MAX = 3.0e38


def admit(
    survival: Tensor, drafted: Tensor, group: Tensor, rules: tuple[Rule, ...], favour: Favour | None = None
) -> Tensor:
    """Return verify lengths i32 [B], by numpy on the CPU and by Triton on a GPU (`reference.admit`)."""
    if takes_triton(survival):
        return admit_triton(survival, drafted, group, rules, favour)
    return admit_host(survival, drafted, group, rules, favour)


def admit_triton(
    survival: Tensor, drafted: Tensor, group: Tensor, rules: tuple[Rule, ...], favour: Favour | None = None
) -> Tensor:
    """Return what `reference.admit` returns; nothing is read back to the host.

    Comparisons are float32 as in the twin. EarlyStop sums in float64, where a few hundred float32 survivals add up
    exactly unless they span more than 29 bits, so that the order of summation does not show. Twin: equal.
    """
    check_admit(survival, drafted, group)
    lengths = torch.zeros_like(drafted)
    if survival.numel() == 0:
        return lengths
    for index, rule in enumerate(rules):
        match rule:
            case FixedLength(length=length):
                bounds = (length, 0.0, 0.0)
            case Threshold(value=value, cumulative=cumulative):
                bounds = (NEVER, value, 0.0) if cumulative else (NEVER, 0.0, value)
            case TopK() | EarlyStop():
                order = survival
                if favour is not None and isinstance(rule, TopK):
                    _, order = reference.favoured(survival, _known(survival, drafted), favour)
                _admit_ranked(order, drafted, group == index, rule, lengths)
                continue
            case _:
                raise EngineError(f"admission rule must be one of core.planning.Rule, got {rule!r}")
        _admit_prefix(survival, drafted, group == index, bounds, lengths)
    if favour is None:
        return lengths
    floor = torch.minimum(favour.floor, _known(survival, drafted).cumprod(1).sum(1, dtype=lengths.dtype))
    return torch.where((group >= 0) & (group < len(rules)), torch.maximum(lengths, floor), lengths)


def _known(survival: Tensor, drafted: Tensor) -> Tensor:
    """Return which places bool [B, G] hold a draft of known survival."""
    return (torch.arange(survival.shape[1], device=survival.device) < drafted[:, None]) & ~survival.isnan()


def _admit_prefix(
    survival: Tensor, drafted: Tensor, member: Tensor, bounds: tuple[int, float, float], lengths: Tensor
) -> None:
    """Write the lengths of members whose drafts are admitted row by row.

    bounds  most drafts, least survival, least survival as a share of the one before
    """
    batch, width = survival.shape
    padded, rows = _tile(width)
    longest = max(-1, min(bounds[0], NEVER))
    # Infinity times a survival of 0 is nan.
    floor, ratio = (min(float(bound), FLOAT_MAX) for bound in bounds[1:])
    arguments = survival.contiguous(), drafted, member, lengths, batch, width, longest, floor, ratio
    _prefix_kernel[(-(-batch // rows),)](*arguments, ROWS=rows, WIDTH=padded)


def _admit_ranked(survival: Tensor, drafted: Tensor, member: Tensor, rule: TopK | EarlyStop, lengths: Tensor) -> None:
    """Write the lengths of members whose drafts are admitted in order of survival over the whole group."""
    batch, width = survival.shape
    padded, rows = _tile(width)
    rank = torch.empty((batch, width), dtype=torch.int32, device=survival.device)
    step_s = rule.step_s if isinstance(rule, EarlyStop) else ()
    last = rule.budget if isinstance(rule, TopK) else len(step_s) - 1
    last = max(0, min(last, NEVER - 1))
    seconds = reference.as_seconds(step_s, survival.device)
    falls = torch.empty_like(rank)
    arguments = survival.contiguous(), drafted, member, seconds, rank, falls, batch, width, last
    _rank_kernel[(-(-batch // rows),)](*arguments, EARLY=isinstance(rule, EarlyStop), ROWS=rows, WIDTH=padded)
    # Ranks count from 1.
    num_admitted = torch.clamp(falls.min() - 1, max=last)
    if isinstance(rule, EarlyStop):
        num_admitted = reference.filled(num_admitted, rule.tops, last)
    torch.where(member, (rank <= num_admitted).sum(1, dtype=lengths.dtype), lengths, out=lengths)


def _tile(width: int) -> tuple[int, int]:
    """Return the padded width and the rows of a tile: powers of two that depend on the drafter only."""
    padded = 1 << (width - 1).bit_length()
    return padded, max(1, SLOTS // padded)


@jit()
def _load_frontier(survival, drafted, member, row, place, batch, width):
    """Return running minima of survival [ROWS, WIDTH], 0 where there is no draft to admit, and which are known."""
    is_row = row < batch
    count = tl.load(drafted + row, mask=is_row, other=0)
    count = tl.where(tl.load(member + row, mask=is_row, other=0) != 0, count, 0)
    known = (place[None, :] < count[:, None]) & (place[None, :] < width)
    cell = row[:, None].to(tl.int64) * width + place[None, :]
    value = tl.load(survival + cell, mask=known, other=0.0)
    known = known & (value == value)
    value = tl.where(known, value, 0.0)
    return tl.associative_scan(value, 1, _smaller), known


@jit()
def _smaller(left, right):
    return tl.minimum(left, right)


@jit(do_not_specialize=("batch", "longest"))
def _prefix_kernel(
    survival,
    drafted,
    member,
    lengths,
    batch,
    width,
    longest,
    floor,
    ratio,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Lengths of a tile of rows: the first place that fails floor, ratio or longest ends the row."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    place = tl.arange(0, WIDTH)
    value, known = _load_frontier(survival, drafted, member, row, place, batch, width)
    # The survival before place j is found by comparing places: tiles have no shift.
    is_before = place[:, None] == place[None, :] - 1
    before = tl.sum(tl.where(is_before[None, :, :], value[:, :, None], 0.0), 1)
    before = tl.where(place[None, :] == 0, 1.0, before)
    keep = known & (value >= floor) & (value >= ratio * before) & (place[None, :] < longest)
    length = tl.min(tl.where(keep, WIDTH, place[None, :] + tl.zeros_like(keep.to(tl.int32))), 1)
    is_member = tl.load(member + row, mask=row < batch, other=0) != 0
    tl.store(lengths + row, length, mask=is_member)


@jit(do_not_specialize=("batch", "last"))
def _rank_kernel(
    survival,
    drafted,
    member,
    seconds,
    rank,
    falls,
    batch,
    width,
    last,
    EARLY: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Ranks from 1 of a tile of drafts by (-survival, position, row), by counting those that come before.

    Also the rank where expected tokens per second fail to rise if this draft is that one, else NEVER.
    """
    local = tl.arange(0, ROWS * WIDTH)
    place = tl.arange(0, WIDTH)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    mine, _ = _load_frontier(survival, drafted, member, row, place, batch, width)
    mine = tl.reshape(mine, (ROWS * WIDTH,))
    my_place = local % WIDTH
    my_row = tl.program_id(0) * ROWS + local // WIDTH
    # Order by position, then row: one number for both.
    my_turn = my_place.to(tl.int64) * batch + my_row
    count = tl.zeros((ROWS * WIDTH,), tl.int32)
    sum_before = tl.zeros((ROWS * WIDTH,), tl.float64)
    num_members = tl.zeros((ROWS,), tl.int32)
    for start in range(0, batch, ROWS):
        other_rows = start + tl.arange(0, ROWS)
        other, _ = _load_frontier(survival, drafted, member, other_rows, place, batch, width)
        other = tl.reshape(other, (ROWS * WIDTH,))
        turn = (local % WIDTH).to(tl.int64) * batch + start + local // WIDTH
        first = (other[None, :] > mine[:, None]) | (
            (other[None, :] == mine[:, None]) & (turn[None, :] < my_turn[:, None])
        )
        first = first & (other[None, :] > 0)
        count += tl.sum(first.to(tl.int32), 1)
        if EARLY:
            sum_before += tl.sum(tl.where(first, other[None, :].to(tl.float64), 0.0), 1)
            num_members += tl.load(member + other_rows, mask=other_rows < batch, other=0).to(tl.int32)
    is_cell = (my_place < width) & (my_row < batch)
    cell = my_row.to(tl.int64) * width + my_place
    my_rank = tl.where(mine > 0, count + 1, 2147483647)
    tl.store(rank + cell, my_rank, mask=is_cell)
    fall = tl.full((ROWS * WIDTH,), 2147483647, tl.int32)
    if EARLY:
        in_table = (my_rank <= last) & is_cell
        tokens = sum_before + tl.sum(num_members, 0).to(tl.float64)
        rate_before = tokens / tl.load(seconds + my_rank - 1, mask=in_table, other=1.0)
        rate = (tokens + mine.to(tl.float64)) / tl.load(seconds + my_rank, mask=in_table, other=1.0)
        fall = tl.where(in_table & ((rate > rate_before) == 0), my_rank, fall)
    tl.store(falls + cell, fall, mask=is_cell)
