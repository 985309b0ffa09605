"""The long runs on the real engine, and what they showed: `python -m tests.faults.soak`, or `make soak`.

    python -m tests.faults.soak --only storm --jobs 60 --kills 6 --redis-kills 1 --freezes 1
    python -m tests.faults.soak --only endurance --minutes 2

storm      jobs under a steady load while workers are killed and frozen and Redis is killed: every answer token for
           token the undisturbed one, nothing left behind, and how long a job stood still after its worker's death
endurance  a mixed load over HTTP with clients that leave and cancel, and workers that die: nothing grows (bar R11)

Writes JSON and a figure for each; the exit status is 1 if a bar was missed.
"""

import argparse
import asyncio
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from bench.report import describe_run, write_json
from client.redis_executable import redis_executable
from tests.faults.demo_pair import (
    DOMAINS,
    ENGINE,
    MODEL,
    Known,
    accepted_and_lost,
    demo_jobs,
    engine_settings,
    plain_engine,
    undisturbed,
)
from tests.faults.endurance import RESULT_TTL_S, Endurance
from tests.faults.processes import Nursery
from tests.faults.recovery import quantiles, recoveries
from tests.faults.redis_process import RedisProcess
from tests.faults.soak_figures import draw_recoveries, draw_samples
from tests.faults.storm import Scale, Storm
from tests.faults.world import World, world_on

RESULTS = Path(__file__).parents[2] / "bench" / "results" / "faults"
LEASE_MS = 2000
# Beyond the lease: somebody has to look, read the stream and compute the tokens so far again.
SLACK_S = 3.0
STORM, ENDURANCE = "storm", "endurance"


async def storm(world: World, redis: RedisProcess, real: dict[str, Any], arguments: argparse.Namespace) -> bool:
    """Run the storm, write it down; returns whether it held."""
    scale = Scale(
        arguments.jobs,
        arguments.kills,
        arguments.redis_kills,
        arguments.freezes,
        arguments.workers,
        arguments.at_once,
        limit_s=60.0 + 10.0 * arguments.jobs,
    )
    jobs = demo_jobs(scale.num_jobs, arguments.seed)
    print(f"storm: {scale.num_jobs} jobs; first their undisturbed answers", flush=True)
    begun_s = time.monotonic()
    answers = undisturbed(plain_engine(), jobs)
    print(f"storm: known after {time.monotonic() - begun_s:.0f} s; now the storm", flush=True)
    run = Storm(world, redis, scale, jobs, Known(answers).read, real, random.Random(arguments.seed))
    begun_s = time.monotonic()
    found, clients = await run.run()
    waited = recoveries(run.blows, clients)
    told = {kind: quantiles(seconds) for kind, seconds in waited.seconds.items()}
    bar_s = world.lease_ms / 1000 + SLACK_S
    has_held = not found and told["kill"].p99_s <= bar_s
    kills = [blow for blow in run.blows if blow.kind == "kill"]
    accepted, lost = accepted_and_lost(list(clients.logs.values()))
    report = describe_run() | {
        "scale": msgspec.to_builtins(scale),
        "engine": ENGINE | {"drafter": "dspark", "policy": "load_adaptive", "domains": DOMAINS},
        "lease_s": world.lease_ms / 1000,
        "storm_s": time.monotonic() - begun_s,
        "num_tokens": sum(len(answer.token_ids) for answer in answers.values()),
        "drafts": {"accepted": accepted, "not_accepted": lost},
        "num_violations": len(found),
        "violations": found[:100],
        "kills": {
            "running": sum(bool(blow.held) for blow in kills),
            "idle": sum(blow.was_ready and not blow.held for blow in kills),
            "loading": sum(not blow.was_ready for blow in kills),
        },
        "jobs_hit_again_before_a_token": waited.num_hit_again,
        "recovery": msgspec.to_builtins(told),
        "bar_p99_s": bar_s,
        "has_held": has_held,
        "seconds": waited.seconds,
    }
    write_json(arguments.output / "storm.json", report)
    draw_recoveries(waited.seconds, world.lease_ms / 1000, bar_s, arguments.output / "storm.png")
    print(
        f"storm: {len(found)} violations, recovery {told['kill']}, bar {bar_s:g} s: {'held' if has_held else 'MISSED'}"
    )
    return has_held


async def endurance(world: World, _: RedisProcess, real: dict[str, Any], arguments: argparse.Namespace) -> bool:
    """Run the mixed load, write it down; returns whether everything was flat."""
    print(f"endurance: {arguments.minutes:g} minutes", flush=True)
    world.queue_settings = {"result_ttl_s": RESULT_TTL_S}
    outcome = await Endurance(world, real, arguments.minutes, arguments.seed).run()
    report = describe_run() | {"lease_s": world.lease_ms / 1000, "has_passed": outcome.has_passed}
    write_json(arguments.output / "endurance.json", report | msgspec.to_builtins(outcome))
    draw_samples(outcome.samples, arguments.output / "endurance.png")
    for name, one in outcome.trends.items():
        print(f"  {name}: {one.second_fifth:.1f} -> {one.last_fifth:.1f}, {one.slope_per_hour:+.1f} per hour")
    print(f"  requests {outcome.requests}, wrong {outcome.wrong}, left over {outcome.leftover}")
    print(f"endurance: {'held' if outcome.has_passed else 'MISSED'}")
    return outcome.has_passed


RUNS = {STORM: storm, ENDURANCE: endurance}


async def run_all(arguments: argparse.Namespace) -> bool:
    """Run what was asked for, each on processes and a Redis of its own; returns whether all held."""
    nursery, has_held = Nursery(), True
    try:
        with tempfile.TemporaryDirectory(prefix="specd-") as name:
            real = {"model": MODEL, "engine": engine_settings(Path(name))}
            for run in (RUNS[arguments.only],) if arguments.only else RUNS.values():
                has_held &= await _run_one(run, nursery, real, arguments)
    finally:
        nursery.close()
    return has_held


async def _run_one(run: Any, nursery: Nursery, real: dict[str, Any], arguments: argparse.Namespace) -> bool:
    with tempfile.TemporaryDirectory(prefix="specd-") as name:
        redis = RedisProcess(redis_executable(arguments.redis_server), Path(name))
        try:
            async with world_on(redis.url, nursery, Path(name), Path(name)) as world:
                world.lease_ms = LEASE_MS
                held: bool = await run(world, redis, real, arguments)
        finally:
            redis.kill()
    return held


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[STORM, ENDURANCE], help="one of the two runs")
    parser.add_argument("--jobs", type=int, default=3000, help="jobs in the storm (%(default)s)")
    parser.add_argument("--kills", type=int, default=200, help="workers killed (%(default)s)")
    parser.add_argument("--redis-kills", type=int, default=10, help="kills of Redis (%(default)s)")
    parser.add_argument("--freezes", type=int, default=20, help="workers frozen past their lease (%(default)s)")
    parser.add_argument("--workers", type=int, default=4, help="workers always alive (%(default)s)")
    parser.add_argument("--at-once", type=int, default=12, help="jobs under way at a time (%(default)s)")
    parser.add_argument("--minutes", type=float, default=30.0, help="length of the endurance run (%(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--redis-server", help="the Redis to run on; the one that specd would start if unset")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for JSON and figures (%(default)s)")
    return 0 if asyncio.run(run_all(parser.parse_args())) else 1


if __name__ == "__main__":
    raise SystemExit(main())
