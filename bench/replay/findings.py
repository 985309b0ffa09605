"""What a replay shows: the default policy held against not speculating and against every fixed length."""

from collections.abc import Mapping, Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

F64 = NDArray[np.float64]

ADAPTIVE, OFF = "load_adaptive", "off"


class Curve(Struct, frozen=True):
    """One policy on one machine over growing loads.

    loads            sequences at once
    rates            tokens per second over all rounds; first and second are those of either half
    rows_per_round   target rows per sequence and step, 1 + l
    """

    policy: str
    loads: tuple[int, ...]
    rates: tuple[float, ...]
    first: tuple[float, ...]
    second: tuple[float, ...]
    rows_per_round: tuple[float, ...]


class Findings(Struct, frozen=True):
    """Ratios of the default policy on one machine.

    to_off           per load, to plain decoding without a drafter
    to_best_fixed    per load, to the fixed length that was best in the first half, compared in the second
    to_single_fixed  to the one fixed length that is best over all loads, geometric mean over them; and which it is
    user_speed       per-user speed at the throughput that fixed:1 reaches at `anchor_load`, over fixed:1's there; the
                     same of other fixed lengths; None where a policy never reaches it
    load_correlation Spearman's rank correlation of load and rows per round
    """

    to_off: tuple[float, ...]
    to_best_fixed: tuple[float, ...]
    to_single_fixed: float
    single_fixed: str
    user_speed: dict[str, float | None]
    load_correlation: float


def find(curves: Mapping[str, Curve], anchor_load: int) -> Findings:
    """Compare curves of one machine, by policy name; all have the same loads."""
    adaptive, off = curves[ADAPTIVE], curves[OFF]
    fixed = {name: curve for name, curve in curves.items() if name.startswith("fixed:")}
    best = [max(fixed.values(), key=lambda curve: curve.first[i]) for i in range(len(off.loads))]
    means = {name: float(np.log(curve.rates).mean()) for name, curve in fixed.items()}
    single = max(means, key=lambda name: means[name])
    wanted = fixed["fixed:1"].rates[off.loads.index(anchor_load)]
    speeds = {name: user_speed_at(curve, wanted) for name, curve in curves.items() if name == ADAPTIVE or name in fixed}
    return Findings(
        to_off=ratios(adaptive.rates, off.rates),
        to_best_fixed=ratios(adaptive.second, [curve.second[i] for i, curve in enumerate(best)]),
        to_single_fixed=float(np.exp(np.log(adaptive.rates).mean() - means[single])),
        single_fixed=single,
        user_speed={name: speed and speed * anchor_load / wanted for name, speed in speeds.items()},
        load_correlation=rank_correlation(adaptive.loads, adaptive.rows_per_round),
    )


def user_speed_at(curve: Curve, rate: float) -> float | None:
    """Return tokens per second and user at the least load whose throughput is `rate`; None if it is never reached.

    Between measured loads throughput is taken to be linear.
    """
    loads, rates = np.array((0, *curve.loads), dtype=np.float64), np.array((0.0, *curve.rates))
    above = np.flatnonzero(rates >= rate)
    if not len(above):
        return None
    i = int(above[0])
    load = np.interp(rate, rates[i - 1 : i + 1], loads[i - 1 : i + 1])
    return float(rate / load)


def settling_step(budgets: Sequence[float], steady: slice, within: float = 0.1) -> int:
    """Return the first step from which budgets stay within a share of the steady value, their median over `steady`."""
    values = np.array(budgets[: steady.stop], dtype=np.float64)
    final = float(np.median(values[steady]))
    outside = np.flatnonzero(np.abs(values - final) > within * final)
    return int(outside[-1]) + 1 if len(outside) else 0


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, ...]:
    """Return one ratio per load."""
    return tuple(one / other for one, other in zip(ours, theirs, strict=True))


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Return Spearman's rank correlation; equal values share their mean rank."""
    return float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])


def _ranks(values: Sequence[float]) -> F64:
    array = np.array(values, dtype=np.float64)
    return np.array([(array < value).sum() + ((array == value).sum() - 1) / 2 for value in array])
