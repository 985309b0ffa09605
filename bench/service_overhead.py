"""What HTTP and Redis cost: a server against the same engine in this process, by turns, one thread each.

    python -m bench.service_overhead
    python -m bench.service_overhead --modes off --minutes 1

Three numbers per mode: the share of the engine's tokens per second that is left with 16 requests running and as many
waiting, the same with 16 clients in all, and how much later the first token comes when nothing else runs. With no more
clients than slots a slot stands empty while its client reads the end of one answer and sends the next, which takes the
engine's own clients no time; so the second number counts the clients' part as well. The server's clients run beside it
as real ones do; so all that the server does besides stepping counts as its cost.

Each speed is compared with that of the engine alone on the machine, and with that of the engine beside a process that
keeps a second core as busy as gateway, Redis, clients and the worker's other threads do, and does nothing for it: what
is between the two is what this machine takes for using its second core at all (bench/neighbour.py).
"""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from bench.in_process import EngineTarget
from bench.interleave import fit_schedule, measure
from bench.load import Load
from bench.local_server import local_servers
from bench.logs import show_warnings_only
from bench.modes import Mode, make_modes
from bench.neighbour import BesideNeighbour, MeteredServer, neighbour
from bench.openai_stream import Connection
from bench.over_http import RAMP_SHARE
from bench.prompt_pool import PromptPool
from bench.report import describe_run, shown_interval, write_json
from bench.summary import Row, paired_ratio, summarise
from bench.window import Window
from core.config import EngineSettings
from core.errors import SpecdError
from core.statistics import Interval, bootstrap_interval
from engine.build import build_engine

RESULTS = Path(__file__).parent / "results" / "service_overhead.json"
ENGINE, BESIDE, SERVER = "engine", "engine beside a neighbour", "server"
SLOTS = 16
SATURATED, BUSY, IDLE = 2 * SLOTS, SLOTS, 1


class Overhead(Struct, frozen=True):
    """What the service costs in one mode.

    saturated_speed the server's tokens per second over the engine's, `SLOTS` requests running, as many waiting
    speed           the same with `BUSY` clients in all
    saturated_beside, beside    these two over the engine's beside a neighbour
    neighbour       the share of a core that all but the engine's thread has with `BUSY` clients
    first_token_ms  how much later its first token comes, with one request at a time
    """

    mode: str
    saturated_speed: Interval | None
    speed: Interval | None
    saturated_beside: Interval | None
    beside: Interval | None
    neighbour: float
    first_token_ms: Interval
    rows: list[Row]


def main() -> None:
    """Read the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description="Measure what HTTP and Redis cost beside the engine alone.")
    parser.add_argument("--modes", nargs="+", default=["off", "load_adaptive"], metavar="MODE")
    parser.add_argument("--drafter", default="dspark")
    parser.add_argument("--target", default="demo", help='"demo" or a checkpoint folder')
    parser.add_argument("--minutes", type=float, default=3.0, help="time to measure for (default %(default)s)")
    parser.add_argument("--window", type=float, default=3.0, help="seconds of one window (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    console = Console(highlight=False)
    show_warnings_only()
    settings = EngineSettings(target=arguments.target, max_num_seqs=SLOTS)
    modes = make_modes(arguments.modes, arguments.drafter, settings)
    overheads = [measure_overhead(mode, arguments, console) for mode in modes]
    console.print(overhead_table(overheads))
    report = describe_run() | {"overheads": msgspec.to_builtins(overheads)}
    write_json(arguments.output, report)
    console.print(f"machine: {report['machine']}\nwrote {arguments.output}")


def measure_overhead(mode: Mode, arguments: argparse.Namespace, console: Console) -> Overhead:
    """Run the server and the engine of one mode by turns."""
    console.print(f"mode {mode.name}")
    # The busy one last: what the neighbour had then is told.
    loads = [Load(SATURATED, 1.0), Load(IDLE, 1.0), Load(BUSY, 1.0)]
    minutes = arguments.minutes / len(arguments.modes)
    schedule = fit_schedule(minutes, arguments.window, 3, len(loads), 1 + RAMP_SHARE / 2)
    pool = PromptPool(["math", "code", "chat"], arguments.seed)
    with local_servers([mode.settings]) as urls, neighbour() as busy_one:
        engine = EngineTarget(ENGINE, build_engine(mode.settings))
        server = MeteredServer(SERVER, partial(Connection, urls[0], {}))
        beside = BesideNeighbour(BESIDE, build_engine(mode.settings), server, busy_one)
        # The server first: its warm-up says how busy the neighbour has to be.
        measured = measure([server, engine, beside], loads, pool, schedule, arguments.seed, console.print)
    saturated, idle, busy = (measured[load] for load in loads)
    return Overhead(
        mode.name,
        speed(saturated, ENGINE),
        speed(busy, ENGINE),
        speed(saturated, BESIDE),
        speed(busy, BESIDE),
        server.beside,
        later_by_ms(idle[SERVER], idle[ENGINE]),
        summarise(measured, ENGINE),
    )


def speed(windows: Mapping[str, Sequence[Window]], name: str) -> Interval | None:
    """Return the server's tokens per second over those of the target `name`, rounds paired."""
    rates = [[window.tokens_per_s for window in windows[one]] for one in (SERVER, name)]
    return paired_ratio(rates[0], rates[1])


def later_by_ms(ours: Sequence[Window], theirs: Sequence[Window]) -> Interval:
    """Return by how many milliseconds our first tokens come later than theirs, rounds paired.

    Rounds in which either saw no first token are left out. Raises SpecdError if none is left.
    """
    differences = [
        1000 * (float(np.median(one.first_token_s)) - float(np.median(other.first_token_s)))
        for one, other in zip(ours, theirs, strict=True)
        if one.first_token_s and other.first_token_s
    ]
    if not differences:
        raise SpecdError("no round saw first tokens on both sides; give it more --minutes")
    return bootstrap_interval(differences, lambda sample: float(sample.mean()))


def overhead_table(overheads: Sequence[Overhead]) -> Table:
    """Return the result as a table."""
    ratio = "tokens/s, server / engine"
    loads = (f"{SLOTS} at once and {SATURATED - SLOTS} waiting", f"{BUSY} clients")
    columns = [f"{ratio}{how}, {load}" for how in ("", " with a neighbour") for load in loads]
    table = Table("mode", *columns, "first token later by, ms", box=None)
    for each in overheads:
        speeds = (each.saturated_speed, each.speed, each.saturated_beside, each.beside)
        table.add_row(each.mode, *map(shown_interval, (*speeds, each.first_token_ms)))
    return table


if __name__ == "__main__":
    try:
        main()
    except SpecdError as error:
        raise SystemExit(f"bench: {error}") from error
