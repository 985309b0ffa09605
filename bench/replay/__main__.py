"""Policies at GPU-like loads: the real engine, recorded acceptance, a modelled clock.

python -m bench.replay                         # both machines, 1 to 256 sequences, 20,000 rounds each: a quarter hour
python -m bench.replay --rounds 2000 --loads 4 16 64 256
"""

import argparse
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from bench.logs import show_warnings_only
from bench.replay.clock import CLOCKS, ModelledMachine
from bench.replay.figure import draw_replay
from bench.replay.findings import ADAPTIVE, OFF, Curve, Findings, find, settling_step
from bench.replay.recording import DOMAINS, read_recording
from bench.replay.run import ReplayRun, Tally
from bench.report import describe_run, write_json
from core.planning import Policy, TopK
from policies.confidence import Confidence
from policies.fixed import Fixed, Off
from policies.goodput import Goodput
from policies.greedy import Greedy
from policies.load_adaptive import LoadAdaptive

RESULTS = Path(__file__).parents[1] / "results" / "replay.json"
LOADS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
ROUNDS = 20_000
POLICIES: dict[str, Callable[[], Policy]] = {
    OFF: Off,
    **{f"fixed:{length}": partial(Fixed, length) for length in range(1, 8)},
    "confidence": partial(Confidence, 0.3),
    "goodput": Goodput,
    "greedy": Greedy,
    "greedy literal": partial(Greedy, literal=True),
    ADAPTIVE: LoadAdaptive,
}
# Their plans do not depend on what steps cost, so one run is timed by all machines.
TIMELESS = (OFF, "fixed:1", "fixed:2", "fixed:3", "fixed:4", "fixed:5", "fixed:6", "fixed:7", "confidence")
# Throughput for per-user speed is that of fixed:1 here; the paper's baseline drafts one token.
ANCHOR_LOAD = 64
# The load grows so many times at once, after so many steps; looked at until the newcomers begin to end, all at once.
SURGE, SURGE_FROM, SURGE_AT, SURGE_STEPS, SURGE_REPLICAS = 8, 16, 60, 35, 16


class Case(Struct, frozen=True):
    """One policy at one load, on one machine or on all."""

    policy: str
    load: int
    machines: tuple[str, ...]
    rounds: int
    domains: tuple[str, ...] = DOMAINS


class Measured(Struct, frozen=True):
    """Tokens per second of both halves by machine, and target rows per round."""

    case: Case
    first: tuple[float, ...]
    second: tuple[float, ...]
    both: tuple[float, ...]
    rows_per_round: float


def main() -> None:
    """Read the command line, replay, print and write."""
    parser = argparse.ArgumentParser(description="Replay recorded acceptance through the engine on a modelled clock.")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds of one sequence per load and policy")
    parser.add_argument("--loads", nargs="+", type=int, default=list(LOADS))
    parser.add_argument("--policies", nargs="+", default=list(POLICIES), choices=list(POLICIES))
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    show_warnings_only()
    console = Console(highlight=False)
    loads, rounds = sorted(arguments.loads), arguments.rounds
    cases = [case for load in loads for name in arguments.policies for case in cases_of(name, load, rounds)]
    saturated = [
        Case(name, loads[-1], (machine,), rounds, ("chat",)) for machine in CLOCKS for name in ("fixed:7", ADAPTIVE)
    ]
    with ProcessPoolExecutor(arguments.processes) as pool:
        surges = {machine: pool.submit(surge, machine) for machine in CLOCKS}
        measured = list(pool.map(replay, cases))
        chat = list(pool.map(replay, saturated))
    curves = {machine: make_curves(measured, machine, loads) for machine in CLOCKS}
    for machine, own in curves.items():
        console.print(rate_table(machine, own))
    report: dict[str, Any] = describe_run() | {
        "rounds": rounds,
        "curves": msgspec.to_builtins(curves),
        "chat_to_full_block": {m: chat[2 * i + 1].both[0] / chat[2 * i].both[0] for i, m in enumerate(CLOCKS)},
        "surge": {machine: result.result() for machine, result in surges.items()},
    }
    if {OFF, ADAPTIVE, "fixed:1"} <= set(arguments.policies) and ANCHOR_LOAD in loads:
        report["findings"] = {machine: find(own, ANCHOR_LOAD) for machine, own in curves.items()}
        for machine, findings in report["findings"].items():
            console.print(findings_table(machine, loads, findings, report))
    write_json(arguments.output, report)
    draw_replay(curves, arguments.output.with_suffix(".png"))
    console.print(f"modelled, not measured; wrote {arguments.output} and {arguments.output.with_suffix('.png')}")


def cases_of(name: str, load: int, rounds: int) -> list[Case]:
    """Return the runs that give one policy's speed at one load on every machine."""
    sets = [CLOCKS] if name in TIMELESS else [(machine,) for machine in CLOCKS]
    return [Case(name, load, machines, rounds) for machines in sets]


def replay(case: Case) -> Measured:
    """Warm up for a tenth of the rounds, then measure them in two halves."""
    torch.set_num_threads(1)
    run = start(case)
    run.measure(case.rounds // 10)
    first, second = run.measure(case.rounds // 2), run.measure(case.rounds // 2)
    whole = Tally(
        [sum(pair) for pair in zip(first.seconds, second.seconds, strict=True)],
        first.rounds + second.rounds,
        first.tokens + second.tokens,
        first.verified + second.verified,
    )
    rates = [tuple(map(tally.rate, range(len(case.machines)))) for tally in (first, second, whole)]
    return Measured(case, rates[0], rates[1], rates[2], whole.rows_per_round)


def surge(machine: str) -> dict[str, Any]:
    """Let the load grow eightfold at once; returns the default policy's drafts per sequence around that.

    The mean over several replicas, which differ in their requests: of one, what happens to be drafted would show.
    """
    torch.set_num_threads(1)
    means = np.mean([surge_of(machine, replica) for replica in range(SURGE_REPLICAS)], axis=0)
    after = means[SURGE_AT:].tolist()
    return {
        "from": SURGE_FROM,
        "to": SURGE_FROM * SURGE,
        "settled_after_steps": settling_step(after, slice(10, SURGE_STEPS)),
        "drafts_per_sequence": means[SURGE_AT - 10 :].round(2).tolist(),
    }


def surge_of(machine: str, replica: int) -> list[float]:
    """Return the drafts per sequence that each step's plan let through, in one replica."""
    first_request = replica * 41
    run = start(Case(ADAPTIVE, SURGE_FROM, (machine,), 0), most=SURGE_FROM * SURGE, first_request=first_request)
    budgets: list[float] = []
    tally = Tally([0.0])
    for step in range(SURGE_AT + SURGE_STEPS):
        run.load = SURGE_FROM if step < SURGE_AT else SURGE_FROM * SURGE
        run.step(tally)
        part = run.engine.recent.last_plan
        assert part is not None
        rule, drafts = part.plan.rule, int(part.plan.draft_len.sum())
        # A budget beyond what is drafted lets all of it through.
        budgets.append(min(rule.budget if isinstance(rule, TopK) else drafts, drafts) / len(part.members))
    return budgets


def start(case: Case, most: int = 0, first_request: int = 0) -> ReplayRun:
    """Return a run that is ready to take steps."""
    modelled = tuple(ModelledMachine(machine) for machine in case.machines)
    recording, policy = read_recording(case.domains), POLICIES[case.policy]
    return ReplayRun(recording, modelled, policy, case.load, case.policy != OFF, most, first_request)


def make_curves(measured: Sequence[Measured], machine: str, loads: Sequence[int]) -> dict[str, Curve]:
    """Return one machine's curves by policy."""
    curves: dict[str, Curve] = {}
    for name in dict.fromkeys(one.case.policy for one in measured):
        own = [one for one in measured if one.case.policy == name and machine in one.case.machines]
        at = [one.case.machines.index(machine) for one in own]
        curves[name] = Curve(
            name,
            tuple(loads),
            tuple(one.both[i] for one, i in zip(own, at, strict=True)),
            tuple(one.first[i] for one, i in zip(own, at, strict=True)),
            tuple(one.second[i] for one, i in zip(own, at, strict=True)),
            tuple(one.rows_per_round for one in own),
        )
    return curves


def rate_table(machine: str, curves: dict[str, Curve]) -> Table:
    """Return speeds as ratios to plain decoding, and rows per round."""
    any_curve = next(iter(curves.values()))
    table = Table(
        "policy", *map(str, any_curve.loads), box=None, title=f"{machine}: tokens/s over off's (rows a round)"
    )
    for name, curve in curves.items():
        base = curves[OFF].rates if OFF in curves else curve.rates
        cells = (f"{r / b:.2f} ({n:.1f})" for r, b, n in zip(curve.rates, base, curve.rows_per_round, strict=True))
        table.add_row(name, *cells)
    return table


def findings_table(machine: str, loads: Sequence[int], findings: Findings, report: dict[str, Any]) -> Table:
    """Return what one machine's curves say."""
    table = Table("", "", box=None, title=f"{machine}: {ADAPTIVE}", show_header=False)
    low_off, low_fixed = (
        min(range(len(loads)), key=values.__getitem__) for values in (findings.to_off, findings.to_best_fixed)
    )
    table.add_row("least over off", f"{findings.to_off[low_off]:.3f} at {loads[low_off]}")
    table.add_row(
        "least over each load's best fixed length", f"{findings.to_best_fixed[low_fixed]:.3f} at {loads[low_fixed]}"
    )
    table.add_row(f"mean over the best single length, {findings.single_fixed}", f"{findings.to_single_fixed:.3f}")
    speeds = ", ".join(f"{name} {'-' if s is None else f'{s:.2f}'}" for name, s in findings.user_speed.items())
    table.add_row(f"per-user speed at fixed:1's throughput with {ANCHOR_LOAD}", speeds)
    table.add_row("over the full block on chat, most sequences", f"{report['chat_to_full_block'][machine]:.2f}")
    table.add_row("rank correlation of load and rows a round", f"{findings.load_correlation:.2f}")
    table.add_row(f"steps to settle after {SURGE} times the load", str(report["surge"][machine]["settled_after_steps"]))
    return table


if __name__ == "__main__":
    main()
