"""Experiments on a live server at saturation: does a switchback find what separate long runs find, and nothing in A/A.

    python -m bench.experiments.live               # A/B, long runs, A/A: fifty minutes
    python -m bench.experiments.live a_b long --blocks 24 --windows 4

One server, one worker, more clients than slots. The experiment runs as an operator's does: stored in Redis, followed by
the worker. The long runs are two servers of one policy each, by turns. Prompts are of a domain that the demo's drafter
was not trained on, where it matters which policy plans.
"""

import argparse
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace
from rich.console import Console

from bench.experiments.busy import kept_busy
from bench.interleave import Schedule, measure
from bench.load import Load
from bench.local_server import HOST, local_servers, wait_until_healthy
from bench.logs import show_warnings_only
from bench.modes import mode_settings
from bench.openai_stream import Connection
from bench.over_http import ServerTarget
from bench.prompt_pool import PromptPool
from bench.report import describe_run, write_json
from bench.server_roles import redis, role
from bench.summary import paired_ratio
from core.config import EngineSettings, Settings
from core.errors import SpecdError
from core.observing import LogSettings
from core.queue_settings import QueueSettings
from core.server_settings import ServerSettings

RESULTS = Path(__file__).parents[1] / "results" / "experiments"
PARTS = ("a_b", "long", "a_a")
PORT = 18_474
SLOTS, CLIENTS = 16, 20
# Burn-in outlasts an answer, which takes six seconds: what the arm before has begun is then out of it.
SLOT_S, BURN_IN_S, PRE_BLOCKS = 20, 8, 8
FIXED, ADAPTIVE = 'policy = "fixed"\nparameters = {length = 7}', 'policy = "load_adaptive"'
EXPERIMENT = """
id = "{id}"
[arms.control]
{control}
[arms.treatment]
{treatment}
[slot]
seconds = {slot_s}
burn_in_s = {burn_in_s}
[stop]
pre_blocks = {pre_blocks}
min_blocks = {blocks}
"""
# A switchback goes on for a block or two more than it needs, as its last one waits for the unit after it.
SPARE_BLOCKS = 2
# Nobody is refused on a machine that others slow down.
MAX_WAIT_S = 120.0


def main() -> None:
    """Read the command line, run what is asked, print and write."""
    parser = argparse.ArgumentParser(description="Run experiments on a live server at saturation.")
    parser.add_argument("parts", nargs="*", choices=PARTS, metavar="PART", help="a_b, long or a_a (default: all)")
    parser.add_argument("--blocks", type=int, default=24, help="of comparison (default %(default)s)")
    parser.add_argument("--slot", type=int, default=SLOT_S, help="seconds of one (default %(default)s)")
    parser.add_argument("--burn-in", type=int, default=BURN_IN_S, help="seconds of each slot (default %(default)s)")
    parser.add_argument("--windows", type=int, default=8, help="of each long run (default %(default)s)")
    parser.add_argument("--window", type=float, default=10.0, help="seconds of one (default %(default)s)")
    parser.add_argument("--domains", nargs="+", default=["library"], help="of the prompts (default %(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder (default %(default)s)")
    arguments = parser.parse_args()
    show_warnings_only()
    console = Console(highlight=False, soft_wrap=True)
    for part in arguments.parts or PARTS:
        if part == "long":
            report = long_runs(arguments, console)
            console.print("long runs:", report["ratio"])
        else:
            report = run_experiment(part, FIXED, ADAPTIVE if part == "a_b" else FIXED, arguments, console)
        write_json(arguments.output / f"live_{part}.json", describe_run() | report)


def run_experiment(
    name: str, control: str, treatment: str, arguments: argparse.Namespace, console: Console
) -> dict[str, Any]:
    """Run one switchback on a server of its own, and return its report and what was asked."""
    pool = PromptPool(arguments.domains, 0)
    with tempfile.TemporaryDirectory(prefix="specd-live-") as text, ExitStack() as stack:
        folder = Path(text)
        url = stack.enter_context(redis(folder, None))
        file = folder / "experiment.toml"
        file.write_text(
            EXPERIMENT.format(
                id=name,
                control=control,
                treatment=treatment,
                slot_s=arguments.slot,
                burn_in_s=arguments.burn_in,
                pre_blocks=PRE_BLOCKS,
                blocks=arguments.blocks,
            ),
            encoding="utf-8",
        )
        server = stack.enter_context(role(settings_of(url), "all", folder / "server", "worker_ready"))
        wait_until_healthy(server, PORT, folder / "server.log")
        failed = stack.enter_context(kept_busy(f"http://{HOST}:{PORT}", pool, CLIENTS))
        specd("start", str(file), "--redis-url", url)
        seconds = 2 * arguments.slot * (PRE_BLOCKS + arguments.blocks + SPARE_BLOCKS)
        console.print(f"{name}: a switchback of {seconds} s on {' '.join(arguments.domains)}")
        failed.wait(seconds)
        told = specd("report", "--redis-url", url, "--output", str(arguments.output / f"live_{name}"))
        console.print(told, markup=False)
        specd("stop", "--redis-url", url)
        found = msgspec.json.decode((arguments.output / f"live_{name}" / "report.json").read_bytes())
    return {"experiment": found, "seconds": seconds, "slot_s": arguments.slot, "slots": SLOTS, "clients": CLIENTS}


def settings_of(redis_url: str) -> Settings:
    """Return a server's settings: the default policy, so that what steps cost is measured; one thread."""
    return Settings(
        server=ServerSettings(host=HOST, port=PORT),
        queue=QueueSettings(redis_url=redis_url, max_wait_s=MAX_WAIT_S),
        engine=EngineSettings(max_num_seqs=SLOTS, num_threads=1),
        log=LogSettings(level="info"),
    )


def long_runs(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Return the ratio of two servers, one policy each, under the load of the experiment, in windows by turns.

    Not of engines alone: what HTTP and Redis take of a step is more of a short one.
    """
    engine, names = EngineSettings(max_num_seqs=SLOTS, num_threads=1), ("load_adaptive", "fixed:7")
    modes = [mode_settings(name, "dspark", engine) for name in names]
    patient = [replace(mode, queue=replace(mode.queue, max_wait_s=MAX_WAIT_S)) for mode in modes]
    load, schedule = Load(CLIENTS, 1.0), Schedule(arguments.windows, arguments.window, arguments.window)
    with local_servers(patient) as urls:
        targets = [ServerTarget(name, partial(Connection, url, {})) for name, url in zip(names, urls, strict=True)]
        found = measure(targets, [load], PromptPool(arguments.domains, 1), schedule, 0, console.print)[load]
    rates = [[window.tokens_per_s for window in found[name]] for name in names]
    return {"tokens_per_s": dict(zip(names, rates, strict=True)), "ratio": paired_ratio(rates[0], rates[1])}


def specd(*arguments: str) -> str:
    """Run `specd experiment` as an operator does, and return what it says; raises SpecdError if it fails."""
    command = [sys.executable, "-m", "cli.main", "experiment", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SpecdError(f"specd experiment {' '.join(arguments)} failed: {done.stderr.strip() or done.stdout}")
    return done.stdout


if __name__ == "__main__":
    try:
        main()
    except SpecdError as error:
        raise SystemExit(f"bench: {error}") from error
