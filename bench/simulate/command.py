"""`specd simulate`: play policies under loads, or search for the fleet that meets objectives; tables, JSON and PNG."""

import argparse
from collections.abc import Iterable
from functools import partial
from typing import Any

import msgspec
from rich.console import Console

from bench.logs import show_warnings_only
from bench.report import write_json
from bench.simulate.case import Case, named_policy
from bench.simulate.cases import play_all
from bench.simulate.drafts import read_texts
from bench.simulate.figure import draw
from bench.simulate.machine import make_pricing
from bench.simulate.measure import Outcome
from bench.simulate.report import answer_table, death_lines, describe, outcome_tables, recommendation_lines
from bench.simulate.search import MOST_LOAD, recommend
from bench.simulate.settings import Simulation, read_simulation
from bench.simulate.span import span_of
from bench.simulate.traffic import Arrivals

# flag -> setting of a simulation
FLAGS = {
    "policies": "policies",
    "seconds": "seconds",
    "warm_up": "warm_up_s",
    "seed": "seed",
    "costs": "costs.table",
    "acceptance": "acceptance.recording",
    "traffic": "traffic.kind",
    "loads": "traffic.loads",
    "trace": "traffic.trace",
    "workers": "fleet.workers",
    "router": "fleet.router",
    "first_token_p95": "objectives.first_token_p95_s",
    "token_p95": "objectives.token_p95_s",
}


def run(arguments: argparse.Namespace) -> int:
    """Simulate, print and write; returns 0. Raises ConfigError for what cannot be simulated."""
    show_warnings_only()
    console = Console(highlight=False)
    simulation = read_simulation(arguments.config, given_flags(arguments))
    notices = check(simulation, MOST_LOAD if arguments.search else 1.0)
    for notice in notices:
        console.print(notice, markup=False)
    about = describe(simulation) | {"notices": notices}
    if arguments.search:
        search(simulation, about, arguments, console)
    else:
        sweep(simulation, about, arguments, console)
    return 0


def given_flags(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that flags give."""
    told = {setting: getattr(arguments, flag) for flag, setting in FLAGS.items()}
    return {setting: value for setting, value in told.items() if value is not None}


def check(simulation: Simulation, most_load: float = 1.0) -> list[str]:
    """Return what the cases leave out of a trace; raises ConfigError for what one would stumble over.

    most_load  times each load: what is tried besides
    """
    for policy in simulation.policies:
        named_policy(simulation, policy)
    make_pricing(simulation.costs)
    texts = read_texts(simulation.acceptance, simulation.seed)
    notices = []
    for load in simulation.traffic.loads:
        arrivals = Arrivals(simulation.traffic, load, texts, simulation.seed)
        if notice := span_of(simulation, arrivals.trace_s).notice:
            notices.append(f"load {load:g}: {notice}; without --seconds all of it is")
        if arrivals.trace_s is not None:
            span_of(simulation, arrivals.trace_s / most_load)
    return notices


def sweep(simulation: Simulation, about: dict[str, Any], arguments: argparse.Namespace, console: Console) -> None:
    """Play every policy under every load."""
    loads = simulation.traffic.loads
    cases = [
        Case(simulation, policy, load, simulation.fleet.workers) for load in loads for policy in simulation.policies
    ]
    outcomes = list[Outcome]()
    with console.status("simulating") as status:
        for outcome in play_all(cases, arguments.processes):
            outcomes.append(outcome)
            status.update(f"simulating: {len(outcomes)} of {len(cases)} cases")
    for table in outcome_tables(outcomes, simulation.traffic.kind):
        console.print(table)
    for line in death_lines(outcomes):
        console.print(line, markup=False)
    json_path, png_path = (arguments.output.with_suffix(ending) for ending in (".json", ".png"))
    write_json(json_path, about | {"outcomes": msgspec.to_builtins(outcomes)})
    caption = f"simulated: {simulation.fleet.workers} worker(s), costs {simulation.costs.table}"
    draw(outcomes, simulation.traffic.kind, png_path, caption)
    steps, cpu_s = sum(one.steps for one in outcomes), sum(one.cpu_s for one in outcomes)
    console.print(
        f"simulated, not measured: {steps} steps in {cpu_s:.0f} s of processor time; wrote {json_path} and {png_path}"
    )


def search(simulation: Simulation, about: dict[str, Any], arguments: argparse.Namespace, console: Console) -> None:
    """Find the fewest workers for each load."""

    def play(cases: Iterable[Case]) -> list[Outcome]:
        return list(play_all(cases, arguments.processes))

    found = recommend(simulation, arguments.most_workers, play, partial(console.print, style="dim"))
    for one in found:
        console.print(answer_table(one, simulation.traffic.kind))
        for line in recommendation_lines(one):
            console.print(line, markup=False)
    path = arguments.output.with_suffix(".json")
    bands = [one.band if one.best else None for one in found]
    write_json(path, about | {"recommendations": msgspec.to_builtins(found), "bands": bands})
    console.print(f"simulated, not measured; wrote {path}")
