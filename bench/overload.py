"""What overload does to those who are let in: a server under its usual load, then under ten times as much.

    python -m bench.overload
    python -m bench.overload --seconds 300 --slots 8 --max-wait 0.1
    python -m bench.overload --url http://127.0.0.1:8000 --clients 8

The usual load is a closed loop of some clients. Under overload ten times as many ask: first clients that wait for as
long as `Retry-After` says, as OpenAI's do, then hostile ones, which ask again after a moment. Three things are asked of
the service (docs/guarantees.md): refusals are 429 or 503 with `Retry-After`; the first tokens of accepted requests and
the time between tokens stay within 1.5 times of the usual at the 99th percentile; gateway and Redis grow no larger. A
server of its own is started unless one is named; its engine gets a core to itself where there are several.
"""

import argparse
import json
import os
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np
from msgspec import Struct, field
from rich.console import Console

from bench.footprints import Footprint, descendants, footprints, pin
from bench.local_server import local_servers
from bench.logs import show_warnings_only
from bench.prompt_pool import PromptPool, Question
from bench.report import describe_run, write_json
from core.config import EngineSettings, Settings
from core.errors import SpecdError
from core.queue_settings import QueueSettings

RESULTS = Path(__file__).parent / "results" / "overload" / "overload.json"
TIMES = 10
TIMEOUT_S = 60.0
# Whom `Retry-After` does not hold back asks again after this long.
AGAIN_S = 0.5
# What is measured begins after this share of each phase: speeds are learnt, queues fill.
RAMP_SHARE = 0.2
REFUSALS = (429, 503)


class Seen(Struct):
    """What clients saw in one phase; seconds of first tokens, and of the gaps between events after them."""

    statuses: Counter[int] = field(default_factory=Counter)
    num_wrong: int = 0
    first_token_s: list[float] = field(default_factory=list)
    gap_s: list[float] = field(default_factory=list)
    max_retry_after_s: int = 0


class Phase(Struct, frozen=True):
    """One load as it is reported; num_wrong are refusals without `Retry-After`, other statuses, streams without end."""

    clients: int
    seconds: float
    statuses: dict[str, int]
    num_wrong: int
    first_token_ms: dict[str, float]
    gap_ms: dict[str, float]
    max_retry_after_s: int
    before: dict[str, Footprint]
    after: dict[str, Footprint]


class Crowd:
    """Clients that ask one question after the other until `end_s`; what begins before `begin_s` is not counted.

    Hostile ones ask again after AGAIN_S; others when they are told to.
    """

    def __init__(self, url: str, pool: PromptPool, begin_s: float, end_s: float, *, is_hostile: bool) -> None:
        parts = urlsplit(url)
        self._connect = partial(HTTPConnection, parts.hostname or "", parts.port, timeout=TIMEOUT_S)
        self._questions, self._lock = pool.asked_from(0), threading.Lock()
        self._begin_s, self._end_s, self._is_hostile, self.seen = begin_s, end_s, is_hostile, Seen()

    def client(self) -> None:
        """Be one client."""
        while time.perf_counter() < self._end_s:
            with self._lock:
                question = next(self._questions)
            if wait_s := self._ask(question):
                time.sleep(AGAIN_S if self._is_hostile else wait_s)

    def _ask(self, question: Question) -> float:
        """Ask, and return the seconds after which to ask again: 0 where there was an answer."""
        asked_s, connection = time.perf_counter(), self._connect()
        seen = self.seen if asked_s >= self._begin_s else Seen()
        times: list[float] = []
        is_whole = False
        fields = {"max_tokens": question.max_tokens, "stream": True, "cache_salt": os.urandom(8).hex()}
        try:
            body = json.dumps({"prompt": question.text} | fields)
            connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            with self._lock:
                seen.statuses[response.status] += 1
            if response.status != 200:
                return self._refused(seen, response)
            times, is_whole = _read(response, asked_s)
        except (OSError, HTTPException):
            is_whole = False
        finally:
            connection.close()
        with self._lock:
            seen.num_wrong += not is_whole
            seen.first_token_s += times[:1]
            seen.gap_s += times[1:]
        return 0.0

    def _refused(self, seen: Seen, response: HTTPResponse) -> float:
        again = response.headers.get("Retry-After", "")
        with self._lock:
            seen.num_wrong += response.status not in REFUSALS or not again.isdecimal()
            seen.max_retry_after_s = max(seen.max_retry_after_s, int(again) if again.isdecimal() else 0)
        return max(AGAIN_S, float(again)) if again.isdecimal() else AGAIN_S


def main() -> None:
    """Read the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description="Measure what overload does to requests that are let in.")
    parser.add_argument("--url", help="a server that runs (default: one of its own)")
    parser.add_argument("--slots", type=int, default=8, help="max_num_seqs of its own server (default %(default)s)")
    parser.add_argument("--max-wait", type=float, default=0.05, help="its queue.max_wait_s (default %(default)s)")
    parser.add_argument("--clients", type=int, help="of the usual load (default: one more than slots)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each phase (default %(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    console = Console(highlight=False)
    show_warnings_only()
    num_clients = arguments.clients or arguments.slots + 1
    if arguments.url:
        phases = measure(arguments.url, num_clients, arguments.seconds)
    else:
        settings = Settings(
            engine=EngineSettings(max_num_seqs=arguments.slots), queue=QueueSettings(max_wait_s=arguments.max_wait)
        )
        with local_servers([settings]) as urls:
            phases = measure(urls[0], num_clients, arguments.seconds)
    usual = phases["usual"]
    ratios = {
        name: {
            "first_token_p99": phase.first_token_ms["p99"] / usual.first_token_ms["p99"],
            "gap_p99": phase.gap_ms["p99"] / usual.gap_ms["p99"],
        }
        for name, phase in phases.items()
        if phase is not usual
    }
    report: dict[str, Any] = describe_run() | {
        "max_wait_s": None if arguments.url else arguments.max_wait,
        "phases": msgspec.to_builtins(phases),
        "ratios": ratios,
    }
    write_json(arguments.output, report)
    for name, phase in phases.items():
        console.print(name, phase.clients, "clients", phase.statuses, "wrong", phase.num_wrong)
        console.print("  first token ms", phase.first_token_ms, "gap ms", phase.gap_ms)
        console.print("  MiB", {role: (phase.before[role].mib, one.mib) for role, one in phase.after.items()})
    console.print(f"overloaded / usual: {ratios}\nwrote {arguments.output}")


def measure(url: str, num_clients: int, seconds: float) -> dict[str, Phase]:
    """Run the loads one after the other; footprints are of a server that this process has started."""
    own = descendants(os.getpid())
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1 and "engine" in own:
        pin(own["engine"], {cores[-1]})
        for pid in [os.getpid(), *(pid for role, pid in own.items() if role != "engine")]:
            pin(pid, set(cores[:-1]))
    pool = PromptPool(["math", "code", "chat"], 0)
    return {
        "usual": _phase(url, pool, num_clients, seconds),
        "patient": _phase(url, pool, TIMES * num_clients, seconds),
        "hostile": _phase(url, pool, TIMES * num_clients, seconds, is_hostile=True),
    }


def _phase(url: str, pool: PromptPool, num_clients: int, seconds: float, *, is_hostile: bool = False) -> Phase:
    begin_s = time.perf_counter() + RAMP_SHARE * seconds
    crowd = Crowd(url, pool, begin_s, begin_s + seconds, is_hostile=is_hostile)
    with ThreadPoolExecutor(num_clients, thread_name_prefix="client") as threads:
        ended = [threads.submit(crowd.client) for _ in range(num_clients)]
        time.sleep(max(0.0, begin_s - time.perf_counter()))
        before = footprints(descendants(os.getpid()))
        time.sleep(max(0.0, begin_s + seconds - time.perf_counter()))
        after = footprints(descendants(os.getpid()))
        for one in ended:
            one.result()
    seen = crowd.seen
    return Phase(
        num_clients,
        seconds,
        {str(status): count for status, count in sorted(seen.statuses.items())},
        seen.num_wrong,
        _quantiles_ms(seen.first_token_s),
        _quantiles_ms(seen.gap_s),
        seen.max_retry_after_s,
        before,
        after,
    )


def _read(response: HTTPResponse, asked_s: float) -> tuple[list[float], bool]:
    """Return the seconds from one event with tokens to the next, the first from `asked_s`, and whether [DONE] came."""
    times, at_s = list[float](), asked_s
    for line in response:
        if line.startswith(b"data: [DONE]"):
            return times, True
        if b'"token_ids"' in line:
            now_s = time.perf_counter()
            times.append(now_s - at_s)
            at_s = now_s
    return times, False


def _quantiles_ms(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        raise SpecdError("no request was answered; give it more --seconds")
    p50, p99 = np.quantile(seconds, (0.5, 0.99))
    return {"p50": round(1000 * float(p50), 2), "p99": round(1000 * float(p99), 2), "count": len(seconds)}


if __name__ == "__main__":
    try:
        main()
    except SpecdError as error:
        raise SystemExit(f"bench: {error}") from error
