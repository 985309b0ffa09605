"""How long a job stood still after a fault: from the fault to its next new token, as its client saw it."""

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from tests.faults.history import Clients

# Faults that take a job from its worker.
DEADLY = ("kill", "freeze")


class Blow(Struct, frozen=True):
    """A fault, when it fell, and the jobs it hit with the number of tokens that their streams had.

    was_ready is False for a worker that had not finished loading.
    """

    kind: str
    at_s: float
    held: dict[str, int]
    was_ready: bool = True


class Quantiles(Struct, frozen=True):
    """Of some seconds; nan of none."""

    count: int
    p50_s: float
    p99_s: float
    max_s: float


class Recoveries(Struct, frozen=True):
    """Seconds by kind of fault; num_hit_again jobs were taken from an heir before it had written a token.

    Those are counted from the last fault that hit them: the first heir's time is no recovery.
    """

    seconds: dict[str, list[float]]
    num_hit_again: int


def recoveries(blows: Sequence[Blow], clients: Clients) -> Recoveries:
    """Return what every job that was hit had to wait."""
    seconds: dict[str, list[float]] = {"kill": [], "freeze": [], "redis": []}
    num_hit_again = 0
    for blow in blows:
        for job_id, count in blow.held.items():
            next_s = moved_on_s(clients, job_id, count)
            if blow.kind in DEADLY and _is_hit_again(blows, blow, job_id, next_s):
                num_hit_again += 1
            else:
                seconds[blow.kind].append(next_s - blow.at_s)
    return Recoveries(seconds, num_hit_again)


def moved_on_s(clients: Clients, job_id: str, count: int) -> float:
    """Return when the first entry came that stands behind `count` tokens: more of them, or the end."""
    arrivals = zip(clients.logs[job_id], clients.arrived_s[job_id], strict=True)
    for (entry_id, _), at_s in arrivals:
        if tuple(map(int, entry_id.split("-"))) > (count, 0):
            return at_s
    return float("inf")


def _is_hit_again(blows: Sequence[Blow], first: Blow, job_id: str, next_s: float) -> bool:
    return any(one.kind in DEADLY and first.at_s < one.at_s < next_s and job_id in one.held for one in blows)


def quantiles(seconds: Sequence[float]) -> Quantiles:
    """Return the median, the 99th percentile and the maximum."""
    if not seconds:
        return Quantiles(0, *[float("nan")] * 3)
    p50, p99 = np.percentile(seconds, (50, 99))
    return Quantiles(len(seconds), float(p50), float(p99), max(seconds))
