"""What the way out costs: from an engine's step to text in 64 streams, beside the engine's next step.

    python -m bench.output_pipeline

Counts of the worker's own: the time that writing a step took, the time in which the engine had to wait for it, steps,
and the tokens in them; and, from the operating system, the processor time of the worker's event loop, which all this
runs on and which competes with the engine for the interpreter.
"""

import argparse
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from bench.footprints import descendants, thread_processor_s
from bench.load import Load, Questions
from bench.local_server import local_servers
from bench.logs import show_warnings_only
from bench.modes import make_modes
from bench.openai_stream import Connection
from bench.over_http import ServerTarget
from bench.prompt_pool import PromptPool
from bench.report import describe_run, write_json
from core.config import EngineSettings
from core.errors import SpecdError

RESULTS = Path(__file__).parent / "results" / "output_pipeline.json"
# What workers tell of themselves is a second old at most.
STATS_S = 1.5


class Way(Struct, frozen=True):
    """One load's way out. Milliseconds are per step of the engine.

    write_ms   from a step's tokens to their place in Redis, waiting for it included
    loop_ms    processor time of the event loop's thread for all that it does
    held_ms    for which the engine had to wait for its output
    """

    mode: str
    streams: int
    steps: int
    tokens_per_step: float
    step_ms: float
    write_ms: float
    loop_ms: float
    held_ms: float


def main() -> None:
    """Read the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description="Measure the way from the engine's steps into streams.")
    parser.add_argument("--modes", nargs="+", default=["off", "load_adaptive"], metavar="MODE")
    parser.add_argument("--drafter", default="dspark")
    parser.add_argument("--streams", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--seconds", type=float, default=15.0, help="time of one measurement (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    console = Console(highlight=False)
    show_warnings_only()
    settings = EngineSettings(max_num_seqs=max(arguments.streams))
    ways = []
    for mode in make_modes(arguments.modes, arguments.drafter, settings):
        console.print(f"mode {mode.name}")
        with local_servers([mode.settings]) as (url,):
            ways += [measure(mode.name, url, one, arguments.seconds, arguments.seed) for one in arguments.streams]
    console.print(table(ways))
    write_json(arguments.output, describe_run() | {"ways": ways})
    console.print(f"wrote {arguments.output}")


def measure(mode: str, url: str, streams: int, seconds: float, seed: int) -> Way:
    """Keep `streams` answers going for so long and return what they cost."""
    load = Load(streams, 1.0)
    with _load(url, load, Questions(PromptPool(["math", "code", "chat"], seed), 0, load), seconds):
        first, began_s, first_cpu_s = _counts(url), time.perf_counter(), _loop_cpu_s()
        time.sleep(seconds)
        last, ended_s, last_cpu_s = _counts(url), time.perf_counter(), _loop_cpu_s()
    gained = {name: last[name] - first[name] for name in last}
    steps = int(gained["specd_output_steps_total"])
    if not steps:
        raise SpecdError(f"the server wrote no step in {seconds} s")
    return Way(
        mode,
        streams,
        steps,
        gained["specd_engine_emitted_tokens_total"] / steps,
        1000 * (ended_s - began_s) / steps,
        1000 * gained["specd_output_seconds_total"] / steps,
        1000 * (last_cpu_s - first_cpu_s) / steps,
        1000 * gained["specd_output_held_seconds_total"] / steps,
    )


@contextmanager
def _load(url: str, load: Load, questions: Questions, seconds: float) -> Iterator[None]:
    """Keep a server under load while the block lasts, and a little longer."""
    server = ServerTarget("server", partial(Connection, url, {}))
    server.start(load, questions)
    thread = threading.Thread(target=server.measure, args=(seconds + 4 * STATS_S,), daemon=True)
    thread.start()
    time.sleep(2 * STATS_S)
    yield
    thread.join()


def _counts(url: str) -> dict[str, float]:
    """Return the worker's counters."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=10.0)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith(("specd_output_", "specd_engine_emitted")) and sample.name.endswith("_total")
    }


def _loop_cpu_s() -> float:
    """Return the processor seconds of the event loop's thread, the main one of our own server's worker."""
    if worker := descendants(os.getpid()).get("worker"):
        return thread_processor_s(worker)[worker]
    raise SpecdError("no worker process is to be seen under /proc")


def table(ways: list[Way]) -> Table:
    """Return the result as a table."""
    columns = ("streams", "tokens a step", "step, ms", "written in, ms", "event loop, ms", "engine held, ms")
    shown = Table("mode", *columns, box=None)
    for way in ways:
        numbers = (way.tokens_per_step, way.step_ms, way.write_ms, way.loop_ms, way.held_ms)
        shown.add_row(way.mode, str(way.streams), *(f"{number:.2f}" for number in numbers))
    return shown


if __name__ == "__main__":
    try:
        main()
    except SpecdError as error:
        raise SystemExit(f"bench: {error}") from error
