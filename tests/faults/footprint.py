"""What a service holds on to: memory and open files of processes, keys and memory of Redis, followed over time."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from msgspec import Struct
from redis.asyncio import Redis

from client.wire import PRIORITIES, WORKER_GROUP, queue_stream

MIB = 1 << 20
# Between the second and the last fifth of a run everything may grow by this share, and what is counted, which goes up
# and down with the clients of the moment, by so many at least.
MOST_GROWTH, MOST_MORE = 0.05, 2.0


class Sample(Struct, frozen=True):
    """One look at everything, by name; names end in their unit, counts in none."""

    at_s: float
    values: dict[str, float]


class Trend(Struct, frozen=True):
    """Medians of the second and the last fifth, and the slope over all that came after the first."""

    second_fifth: float
    last_fifth: float
    slope_per_hour: float
    is_flat: bool


def process_footprint(name: str, pid: int) -> dict[str, float]:
    """Return the resident memory and the open files of a process."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    (rss_kib,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
    return {f"{name}_mib": int(rss_kib) / 1024, f"{name}_open_files": len(list(Path(f"/proc/{pid}/fd").iterdir()))}


def worker_footprint(pid: int) -> dict[str, float]:
    """Return the same of a worker and of its engine, the only process that it has started."""
    (engine,) = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    return process_footprint("worker", pid) | process_footprint("engine", int(engine))


async def redis_footprint(client: Redis, model: str) -> dict[str, float]:
    """Return Redis's memory, its keys, its clients and the workers that its groups know of."""
    memory, clients = await client.info("memory"), await client.info("clients")
    consumers = [await client.xinfo_consumers(queue_stream(model, one), WORKER_GROUP) for one in PRIORITIES]
    return {
        "redis_mib": memory["used_memory"] / MIB,
        "redis_keys": await client.dbsize(),
        "redis_clients": clients["connected_clients"],
        "redis_consumers": max(map(len, consumers)),
    }


def trends(samples: Sequence[Sample]) -> dict[str, Trend]:
    """Return how each value went, by name; the first fifth is warming up."""
    return {name: trend(name, samples) for name in samples[0].values}


def trend(name: str, samples: Sequence[Sample]) -> Trend:
    """Return how one value went."""
    at_s = np.array([one.at_s for one in samples])
    values = np.array([one.values[name] for one in samples])
    fifth = len(values) // 5
    second, last = float(np.median(values[fifth : 2 * fifth])), float(np.median(values[-fifth:]))
    slope = float(np.polyfit(at_s[fifth:], values[fifth:], 1)[0]) * 3600
    room = max(second * MOST_GROWTH, 0.0 if name.endswith("_mib") else MOST_MORE)
    return Trend(second, last, slope, last - second <= room)
