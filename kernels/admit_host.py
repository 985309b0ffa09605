"""Admission on the host, in numpy: on a CPU, where arrays are small, it takes half the time of torch's many calls.

The specification is `reference.admit`. Arrays lie transposed, [G, B], so that their flat order is the order of ties:
by position, then row.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.errors import EngineError
from core.planning import F32, BoolArray, EarlyStop, FixedLength, Rule, Threshold, TopK
from core.tensors import Favour
from kernels.shapes import check_admit

Places = NDArray[np.int32]
Turns = NDArray[np.int64]
INFINITY = np.float32(np.inf)
# Where a turn has its draft's place; and one that is before all.
PLACE_BITS, NO_TURN = np.int64(2**32 - 1), np.int64(-(2**63))


def admit_host(
    survival: Tensor, drafted: Tensor, group: Tensor, rules: tuple[Rule, ...], favour: Favour | None = None
) -> Tensor:
    """Return what `reference.admit` returns, for tensors on the CPU. Twin: equal."""
    check_admit(survival, drafted, group)
    values, count, group_of = survival.numpy().T, drafted.numpy(), group.numpy()
    lengths = np.zeros_like(count)
    if values.size == 0:
        return torch.from_numpy(lengths)
    places = np.arange(len(values), dtype=np.int32)[:, None]
    # Only nan differs from itself.
    known = (places < count) & (values == values)
    frontier = np.minimum.accumulate(np.where(known, np.maximum(values, np.float32(0)), np.float32(0)), axis=0)
    floored, ranking = None, frontier
    if favour is not None:
        floored = known & (places < favour.floor.numpy())
        ranking = np.where(floored, INFINITY, frontier * favour.weight.numpy())
    for index, rule in enumerate(rules):
        member = group_of == index
        mine = np.where(member, ranking if isinstance(rule, TopK) else frontier, np.float32(0))
        keep = _kept(rule, mine, places, int(np.count_nonzero(member)))
        keep = keep & known if floored is None else (keep | floored) & known
        np.copyto(lengths, np.logical_and.accumulate(keep, axis=0).sum(0, dtype=count.dtype), where=member)
    return torch.from_numpy(lengths)


def _kept(rule: Rule, frontier: F32, places: Places, num_members: int) -> BoolArray:
    """Return which drafts [G, B] one rule admits of its members; the first False of a column ends it."""
    match rule:
        case FixedLength(length=length):
            return np.broadcast_to(places < length, frontier.shape)
        case Threshold(value=value, cumulative=True):
            return frontier >= value
        case Threshold(value=value):
            before = np.vstack((np.ones_like(frontier[:1]), frontier[:-1]))
            with np.errstate(all="ignore"):
                return frontier >= value * before
        case TopK(budget=budget):
            return _greatest(frontier, budget)
        case EarlyStop():
            turns = _turns(frontier)
            order = np.sort(turns, axis=None)
            num_admitted = _num_rising(frontier.ravel()[order & PLACE_BITS], num_members, rule)
            return _first(turns, order[num_admitted - 1] if num_admitted else NO_TURN, frontier)
    raise EngineError(f"admission rule must be one of core.planning.Rule, got {rule!r}")


def _turns(frontier: F32) -> Turns:
    """Return a number for each draft, lesser for those that come first: by falling survival, then by place.

    Floats that are not negative are in the order of their bits; with the place below them no two numbers are equal,
    so that any sort, and any partition, gives the one right order.
    """
    bits = (~frontier.view(np.int32)).astype(np.int64) << np.int64(32)
    return bits | np.arange(frontier.size, dtype=np.int64).reshape(frontier.shape)


def _first(turns: Turns, last: np.int64, frontier: F32) -> BoolArray:
    """Return the drafts up to the turn `last` that can survive."""
    return (turns <= last) & (frontier > 0)


def _greatest(frontier: F32, budget: int) -> BoolArray:
    """Return which drafts are among the first `budget`."""
    if not 0 < budget < frontier.size:
        return (frontier > 0) & (budget > 0)
    turns = _turns(frontier)
    return _first(turns, np.partition(turns, budget - 1, axis=None)[budget - 1], frontier)


def _num_rising(ordered: F32, num_members: int, rule: EarlyStop) -> int:
    """Return how many of the ordered drafts `reference.admit` admits under EarlyStop."""
    seconds = np.asarray(rule.step_s, dtype=np.float64)
    most = max(0, min(len(ordered), len(seconds) - 1))
    tokens = np.empty(most + 1)
    tokens[0] = 0.0
    np.cumsum(ordered[:most], dtype=np.float64, out=tokens[1:])
    with np.errstate(all="ignore"):
        rate = (tokens + num_members)[: len(seconds)] / seconds[: most + 1]
    falls = np.flatnonzero(~(rate[1:] > rate[:-1]))
    num_admitted = int(falls[0]) if len(falls) else most
    top = next((top for top in rule.tops if top >= num_admitted), num_admitted)
    return min(top, most)
