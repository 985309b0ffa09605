"""The simulator held against the real engine on the demo pair: one command, eleven minutes of a quiet machine.

    python -m bench.simulate.check                 # five loads, five policies
    python -m bench.simulate.check --loads 1 8 --rounds 4 --requests 9

Both play the same requests: their texts, and how drafts fare in them, are recorded first (bench/simulate/record.py).
Real engines run by turns, in windows of a closed loop, and the simulator says what they should have shown. What steps
cost is what the engine profiled at start-up, corrected by the steps of half of all policies' windows, load by load and
length by length, and so is how they scatter; none of those windows is compared. What a policy itself takes is the one
part of a step that differs between policies: it is not in those tables, but is added to each step of that policy.
Policies do not see these prices: they are shown the table that the policy of the same name had in its own engine at the
end of the same load. Of equal engines one may be faster by one to four percent for as long as it lives, so all are
built anew four times, in another order each time. A machine that does other things at the same time shows in the A/A
spread: each policy's windows, one half against the other.
"""

import argparse
import gc
import os
import random
import tempfile
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
import torch
from msgspec import Struct
from msgspec.structs import replace
from rich.console import Console
from rich.table import Table

from bench.logs import show_warnings_only
from bench.modes import BASELINE, make_modes, turned
from bench.prompt_pool import PromptPool, Question
from bench.report import describe_run, write_json
from bench.simulate.case import Case, play
from bench.simulate.live import LiveLoop
from bench.simulate.measure import Outcome
from bench.simulate.record import DOMAINS, record, write_recording
from bench.simulate.seen_steps import SeenStep, corrected, deviations
from bench.simulate.settings import Acceptance, Costs, Shape, Simulation, Traffic
from bench.window import Window, merge
from core.config import EngineSettings
from core.cost import CostTable
from core.errors import SpecdError
from engine.build import build_engine
from engine.cost_cache import SavedTable
from engine.engine import Engine

RESULTS = Path(__file__).parents[1] / "results" / "simulator_check.json"
POLICIES = (BASELINE, "fixed:1", "fixed:3", "fixed:7", "load_adaptive")
# Of every engine's first window under a load, which is not looked at.
WARM_UP_S = 1.5
ADAPTIVE, DRAFTER = "load_adaptive", "dspark"
# How often all engines are built.
BUILDS = 4
# How far the simulator may be off, or twice the A/A spread if that is more; and at the 95th percentile.
MOST_OFF, MOST_P95_OFF = 0.05, 0.15
# Of how many values the scatter of steps is made.
SCATTER_PARTS = 100


class Compared(Struct, frozen=True):
    """One policy under one load, simulated over real; p95 is of seconds between two arrivals of an answer."""

    policy: str
    load: int
    real_tokens_per_s: float
    simulated_tokens_per_s: float
    throughput: float
    token_time: float
    p95: float
    accepted_length: float
    verify_length: tuple[float, float]


def main() -> None:
    """Read the command line, run both, print and write; exit status 1 if the simulator is further off than it may."""
    parser = argparse.ArgumentParser(description="Hold the simulator against the real engine.")
    parser.add_argument("--loads", nargs="+", type=int, default=[1, 4, 8, 16, 32])
    parser.add_argument("--policies", nargs="+", default=list(POLICIES))
    parser.add_argument("--window", type=float, default=0.25, help="seconds of a window (default %(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=32, help="windows of each policy and load to compare, even (default %(default)s)"
    )
    parser.add_argument("--builds", type=int, default=BUILDS, help="share the rounds (default %(default)s)")
    parser.add_argument("--requests", type=int, default=30, help="to record (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=60.0, help="virtual, of each case (default %(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    show_warnings_only()
    torch.set_num_threads(1)
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="specd-check-") as folder:
        windows, known, simulations = run_engines(arguments, Path(folder), console)
        outcomes = {
            (policy, load): play(case_of(simulations[load], policy, load, known, Path(folder)))
            for load in arguments.loads
            for policy in arguments.policies
        }
    spread = aa_spread(windows, arguments.loads)
    rows = [compare(key, windows[key], outcomes[key]) for key in outcomes]
    console.print(compared_table(rows, spread))
    real, simulated = rates(rows, 0), rates(rows, 1)
    bounds = {load: max(MOST_OFF, 2 * spread[load]) for load in arguments.loads}
    verdicts = {
        "throughput": all(abs(row.throughput - 1) <= bounds[row.load] for row in rows),
        "token_time": all(abs(row.token_time - 1) <= bounds[row.load] for row in rows),
        "p95": all(abs(row.p95 - 1) <= max(MOST_P95_OFF, 2 * spread[row.load]) for row in rows),
        "ranking": all(same_order(real, simulated, load, bounds[load]) for load in arguments.loads),
        "crossover": same_crossovers(real, simulated, bounds),
    }
    for name, holds in verdicts.items():
        console.print(f"{name}: {'as it must be' if holds else 'OFF'}")
    report = {
        "rows": msgspec.to_builtins(rows),
        "aa_spread": spread,
        "verdicts": verdicts,
        "crossovers": {"real": crossovers(real, arguments.loads), "simulated": crossovers(simulated, arguments.loads)},
        "load_average": os.getloadavg(),
    }
    write_json(arguments.output, describe_run() | report)
    console.print(f"load average {os.getloadavg()[0]:.1f}; wrote {arguments.output}")
    if not all(verdicts.values()):
        raise SystemExit("bench: the simulator is further off than it may be")


Key = tuple[str, int]


class Known(Struct, frozen=True):
    """What a policy's own engine tells of it, by policy and load.

    believed  what the engine thought by then that steps cost; no entry for one without a drafter
    plan_s    seconds that the policy took, of a step
    """

    believed: dict[Key, CostTable]
    plan_s: dict[Key, float]


class Shown(Struct):
    """What engines have shown so far, of all builds: windows to compare, and what prices them.

    steps by load; plan_s, the seconds that policies took of each step, and what was believed last, by policy and load
    """

    windows: dict[Key, list[Window]]
    steps: dict[int, list[SeenStep]]
    plan_s: dict[Key, list[float]]
    believed: dict[Key, CostTable]


def run_engines(
    arguments: argparse.Namespace, folder: Path, console: Console
) -> tuple[dict[Key, list[Window]], Known, dict[int, Simulation]]:
    """Record, warm up and measure.

    Returns windows by policy and load, what the engines tell of their policies, and by load the simulation of the same.
    """
    # Requests with a seed are verified so whatever is configured; what steps cost is to be measured on the same.
    settings = EngineSettings(max_num_seqs=max(arguments.loads), prefix_cache=False, verifier="coupled")
    modes = make_modes(arguments.policies, DRAFTER, settings)
    questions = list(islice(PromptPool(DOMAINS, 0).asked_from(0), arguments.requests))
    if ADAPTIVE not in arguments.policies:
        raise SpecdError(f"the check needs {ADAPTIVE!r} among its policies: its engine tells what steps cost")
    shown = Shown({}, {load: [] for load in arguments.loads}, {}, {})
    chance = random.Random(0)  # noqa: S311, for the order of windows
    profiled = None
    for build in range(arguments.builds):
        engines = {mode.name: build_engine(mode.settings) for mode in turned(modes, build)}
        if profiled is None:
            console.print(f"recording {len(questions)} requests")
            write_recording(folder / "recording.safetensors", record(engines[ADAPTIVE], DRAFTER, questions, 1.0))
            profiled = engines[ADAPTIVE].costs[DRAFTER]
        run_build(engines, questions, arguments, chance, shown, console)
        # Engines hold each other in circles, and the next ones shall have their room.
        del engines
        gc.collect()
    assert profiled is not None
    known = Known(shown.believed, {key: float(np.mean(seconds)) for key, seconds in shown.plan_s.items()})
    simulations = {}
    for load, seen in shown.steps.items():
        table = corrected(profiled, seen)
        (folder / f"table-{load}.json").write_bytes(msgspec.json.encode(SavedTable("", table)))
        simulations[load] = simulation_of(arguments, folder, settings, load, deviations(table, seen))
    return shown.windows, known, simulations


def run_build(
    engines: Mapping[str, Engine],
    questions: Sequence[Question],
    arguments: argparse.Namespace,
    chance: random.Random,
    shown: Shown,
    console: Console,
) -> None:
    """Warm the engines of one build up and measure their share of the rounds, load by load."""
    loops = {name: LiveLoop(engine, questions, 1.0) for name, engine in engines.items()}
    for load in arguments.loads:
        console.print(f"{load} at once")
        for loop in loops.values():
            loop.start(load)
            loop.measure(max(WARM_UP_S, arguments.window))
        # Half of the windows say what steps cost, the others are compared. A machine is not as fast at all times, so
        # they are short and many, and every one to compare is beside one that prices it, before or after by chance.
        for _ in range(max(1, arguments.rounds // arguments.builds)):
            for name in chance.sample(list(loops), len(loops)):
                for is_compared in chance.sample((False, True), 2):
                    loops[name].seen.clear()
                    loops[name].plan_s.clear()
                    window = loops[name].measure(arguments.window)
                    if is_compared:
                        shown.windows.setdefault((name, load), []).append(window)
                    else:
                        shown.steps[load] += loops[name].seen
                        shown.plan_s.setdefault((name, load), []).extend(loops[name].plan_s)
        for name, engine in engines.items():
            if DRAFTER in engine.costs:
                shown.believed[name, load] = engine.costs[DRAFTER]


def case_of(simulation: Simulation, policy: str, load: int, known: Known, folder: Path) -> Case:
    """Return the case of a policy under a load, in which it sees what its engine thought that steps cost.

    The steps themselves cost what they were measured to, and the time that the policy takes. A policy whose engine had
    no table needs none.
    """
    costs = replace(simulation.costs, overhead_s=known.plan_s[policy, load])
    simulation = replace(simulation, costs=costs)
    table = known.believed.get((policy, load))
    if table is None:
        return Case(simulation, policy, load, 1)
    shown = folder / f"shown-{policy.replace('/', '-')}-{load}.json"
    shown.write_bytes(msgspec.json.encode(SavedTable("", table)))
    return Case(replace(simulation, costs=replace(simulation.costs, shown=str(shown))), policy, load, 1)


def simulation_of(
    arguments: argparse.Namespace, folder: Path, settings: EngineSettings, load: int, scatter: Sequence[float]
) -> Simulation:
    """Return the simulation of what the engines do under one load, by the table of the steps seen under it.

    Of the scatter of steps the means of each hundredth are kept.
    """
    # Means, for the few steps that take thrice as long are a share of all time that no quantile shows.
    parts = np.array_split(np.sort(np.array(scatter)), SCATTER_PARTS)
    kept = [float(part.mean()) for part in parts if len(part)]
    return Simulation(
        seconds=arguments.seconds,
        warm_up_s=min(5.0, arguments.seconds / 4),
        engine=Shape(
            max_num_seqs=settings.max_num_seqs,
            max_num_batched_tokens=settings.max_num_batched_tokens,
            kv_cache_tokens=settings.kv_cache_tokens,
            block_size=settings.block_size,
        ),
        costs=Costs(table=str(folder / f"table-{load}.json"), deviations=tuple(kept)),
        acceptance=Acceptance(recording=str(folder / "recording.safetensors")),
        traffic=Traffic(kind="closed", loads=(float(load),)),
    )


def compare(key: Key, windows: Sequence[Window], outcome: Outcome) -> Compared:
    """Return one policy and load, simulated over real; raises SpecdError if either saw too little."""
    whole = merge(windows, sum(window.seconds for window in windows))
    if not whole.gaps_s or outcome.gap_s is None or outcome.tokens_per_s_per_user is None:
        raise SpecdError(f"{key[0]} at {key[1]} at once saw no answer grow; give it a longer --window")
    return Compared(
        policy=key[0],
        load=key[1],
        real_tokens_per_s=whole.tokens_per_s,
        simulated_tokens_per_s=outcome.tokens_per_s,
        throughput=outcome.tokens_per_s / whole.tokens_per_s,
        token_time=whole.tokens_per_s_per_user / outcome.tokens_per_s_per_user,
        p95=outcome.gap_s[1] / float(np.quantile(whole.gaps_s, 0.95)),
        accepted_length=outcome.accepted_length / (1 + whole.accepted / max(1, whole.rounds)),
        verify_length=(whole.verified / max(1, whole.rounds), outcome.verify_length),
    )


def aa_spread(windows: Mapping[Key, Sequence[Window]], loads: Sequence[int]) -> dict[int, float]:
    """Return by load how far two halves of the same policy's windows are apart, the mean over policies."""
    halves = {
        key: [merge(own[i::2], sum(w.seconds for w in own[i::2])).tokens_per_s for i in (0, 1)]
        for key, own in windows.items()
    }
    return {
        load: float(np.mean([abs(a / b - 1) for (_, at), (a, b) in halves.items() if at == load])) for load in loads
    }


def rates(rows: Sequence[Compared], which: int) -> dict[Key, float]:
    """Return tokens per second by policy and load: real (0) or simulated (1)."""
    return {(row.policy, row.load): (row.real_tokens_per_s, row.simulated_tokens_per_s)[which] for row in rows}


def same_order(real: Mapping[Key, float], simulated: Mapping[Key, float], load: int, bound: float) -> bool:
    """Tell whether any two policies that really differ by more than `bound` stand in the same order."""
    names = [policy for policy, at in real if at == load]
    return all(agree(real, simulated, (a, load), (b, load), bound) for i, a in enumerate(names) for b in names[:i])


def agree(real: Mapping[Key, float], simulated: Mapping[Key, float], one: Key, other: Key, bound: float) -> bool:
    """Tell whether two stand in the same order, or really are as fast as each other, within the bound."""
    return abs(real[one] / real[other] - 1) <= bound or (real[one] > real[other]) == (simulated[one] > simulated[other])


def crossovers(found: Mapping[Key, float], loads: Sequence[int]) -> dict[str, int | None]:
    """Return for each policy the first load at which it is slower than plain decoding; None where it never is."""
    names = dict.fromkeys(policy for policy, _ in found if policy != BASELINE)
    return {
        name: next((load for load in sorted(loads) if found[name, load] < found[BASELINE, load]), None)
        for name in names
        if (BASELINE, loads[0]) in found
    }


def same_crossovers(real: Mapping[Key, float], simulated: Mapping[Key, float], bounds: Mapping[int, float]) -> bool:
    """Tell whether policies are on the same side of plain decoding at every load.

    Where they really are as fast as it, within the load's bound, either side is right.
    """
    return all(
        agree(real, simulated, key, (BASELINE, key[1]), bounds[key[1]]) for key in real if (BASELINE, key[1]) in real
    )


def compared_table(rows: Sequence[Compared], spread: Mapping[int, float]) -> Table:
    """Return all of it as a table."""
    headings = ("at once", "policy", "tokens/s, real", "simulated", "ratio", "per token", "p95", "tau", "A/A")
    table = Table(*headings, box=None, title="simulated over real", title_justify="left")
    for row in rows:
        table.add_row(
            str(row.load),
            row.policy,
            f"{row.real_tokens_per_s:.0f}",
            f"{row.simulated_tokens_per_s:.0f}",
            *(f"{value:.3f}" for value in (row.throughput, row.token_time, row.p95, row.accepted_length)),
            f"{spread[row.load]:.1%}",
        )
    return table


if __name__ == "__main__":
    try:
        main()
    except SpecdError as error:
        raise SystemExit(f"bench: {error}") from error
