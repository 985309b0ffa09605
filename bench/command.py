"""`specd bench`: decoding modes compared in a closed loop, in this process, on servers of its own, or on one that runs.

Where it runs decides what a window costs: an engine in this process is paused between its windows, a server begins each
with a ramp. The report says which it was.

Of two equal engines in one process one is faster by one to four percent for as long as both live, by the order they
were built in. Where there is time, engines in this process are built anew, each mode as the first one in its turn.
"""

import argparse
import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import msgspec
from msgspec.structs import replace
from rich.console import Console

from bench.figures import draw_figures
from bench.in_process import EngineTarget
from bench.interleave import Measured, Schedule, fit_schedule, measure
from bench.load import Load, Target
from bench.local_server import local_servers
from bench.logs import show_warnings_only
from bench.modes import BASELINE, Mode, make_modes, turned
from bench.openai_stream import Connection, served_model
from bench.over_http import RAMP_SHARE, ServerTarget
from bench.prompt_pool import PromptPool
from bench.report import describe_run, load_tables, write_json
from bench.summary import summarise
from core.config import EngineSettings, FixedSettings, kind_of
from core.errors import ConfigError
from engine.build import build_engine

IN_PROCESS, SERVER = "in-process", "server"
# How often engines may be built, and windows of the first load that each build takes to learn what it is about.
BUILDS, SETTLING = (4, 2), 3


def run(arguments: argparse.Namespace) -> int:
    """Measure, print the table, write JSON and figures; returns 0. Raises ConfigError and QueueError."""
    console = Console(highlight=False)
    show_warnings_only()
    engine = engine_settings(arguments)
    modes = make_modes(arguments.modes, arguments.drafter, engine)
    loads = [
        Load(concurrency, temperature)
        for temperature in arguments.temperatures
        for concurrency in arguments.concurrency
    ]
    place = arguments.url or (SERVER if arguments.server else IN_PROCESS)
    overhead = 1.0 if place == IN_PROCESS else 1.0 + RAMP_SHARE
    schedule, num_builds = fit_schedule(arguments.minutes, arguments.window, len(modes), len(loads), overhead), 1
    if place == IN_PROCESS:
        schedule, num_builds = fit_builds(schedule, arguments.minutes, arguments.window, len(modes), len(loads))
    builds = f", in each of {num_builds} builds" if num_builds > 1 else ""
    console.print(
        f"{len(modes)} modes, {len(loads)} loads, {schedule.rounds} rounds of {schedule.window_s:.2f} s each{builds}; "
        f"{place}"
    )
    measured: Measured = {load: {mode.name: [] for mode in modes} for load in loads}
    for build in range(num_builds):
        add_build(measured, modes, build, schedule, arguments, console)
        # Engines hold each other in circles, and the next ones shall have their room.
        gc.collect()
    rows = summarise(measured, BASELINE if BASELINE in arguments.modes else None)
    for table in load_tables(rows):
        console.print(table)
    caption = f"{engine.target}, {' + '.join(arguments.domains)}, {place}"
    report = describe_run() | {
        "caption": caption,
        "place": place,
        "domains": arguments.domains,
        "seed": arguments.seed,
        "engine": msgspec.to_builtins(engine),
        "schedule": msgspec.to_builtins(schedule),
        "builds": num_builds,
        "rows": msgspec.to_builtins(rows),
    }
    write_json(arguments.output.with_suffix(".json"), report)
    drawn = draw_figures(rows, arguments.output.with_suffix(""), caption)
    console.print(f"machine: {report['machine']}")
    console.print(f"wrote {arguments.output.with_suffix('.json')} and {', '.join(path.name for path in drawn)}")
    return 0


def fit_builds(once: Schedule, minutes: float, window_s: float, num_modes: int, num_loads: int) -> tuple[Schedule, int]:
    """Return how often engines can be built in that time, and the schedule of each build; `once` if not repeatedly."""
    settle_s = SETTLING * window_s
    for num_builds in BUILDS:
        left = minutes / num_builds - num_modes * settle_s / 60
        schedule = fit_schedule(max(left, 0.0), window_s, num_modes, num_loads)
        if schedule.window_s == window_s:
            return replace(schedule, settle_s=settle_s), num_builds
    return once, 1


def add_build(
    measured: Measured,
    modes: Sequence[Mode],
    build: int,
    schedule: Schedule,
    arguments: argparse.Namespace,
    console: Console,
) -> None:
    """Open the targets of one build, another one first in each, and add the windows that they are measured in."""
    seed = arguments.seed + build
    pool = PromptPool(arguments.domains, seed)
    with open_targets(turned(modes, build), arguments) as targets:
        for load, by_mode in measure(targets, list(measured), pool, schedule, seed, console.print).items():
            for name, windows in by_mode.items():
                measured[load][name] += windows


def engine_settings(arguments: argparse.Namespace) -> EngineSettings:
    """Return the engine that all modes share; raises ConfigError."""
    fields = {
        "target": arguments.target,
        "dtype": arguments.dtype,
        "num_threads": arguments.threads,
        "max_num_seqs": max(arguments.concurrency),
    }
    try:
        return msgspec.convert(fields, EngineSettings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"the engine cannot be built so: {error}") from error


@contextmanager
def open_targets(modes: Sequence[Mode], arguments: argparse.Namespace) -> Iterator[list[Target]]:
    """Yield one target per mode, ready for load."""
    if arguments.url:
        yield [_running_server(arguments.url.rstrip("/"), mode, arguments.api_key) for mode in modes]
    elif arguments.server:
        with local_servers([mode.settings for mode in modes]) as urls:
            yield [ServerTarget(mode.name, partial(Connection, url, {})) for mode, url in zip(modes, urls, strict=True)]
    else:
        yield [EngineTarget(mode.name, build_engine(mode.settings)) for mode in modes]


def _running_server(url: str, mode: Mode, api_key: str | None) -> ServerTarget:
    """A running server has its own settings; a mode can only be what a request may ask for."""
    policy, drafter = mode.settings.policy, mode.settings.drafter
    asked: dict[str, Any] = {"policy": kind_of(policy)}
    if isinstance(policy, FixedSettings):
        asked["max_drafts"] = policy.length
    elif ":" in mode.name:
        raise ConfigError(f"a request cannot ask for {mode.name!r}: a running server sets its policies' values itself")
    if "@" in mode.name:
        asked["drafter"] = kind_of(drafter)
    fields = {"model": served_model(url, api_key), "speculation": "off" if mode.name == BASELINE else asked}
    return ServerTarget(mode.name, partial(Connection, url, fields, api_key=api_key))
