"""What the designs of experiments find of a known truth, on a modelled machine.

python -m bench.experiments                # both parts, a quarter hour on a quiet core
python -m bench.experiments series         # 200 A/A experiments, power, planted harms
python -m bench.experiments engine         # a winner at saturation, and a split by requests that misleads
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from msgspec.structs import replace
from rich.console import Console

from bench.experiments.modelled import alone, split_by_requests, switchback, throughput_alone
from bench.experiments.power_figure import draw_power
from bench.experiments.series import Traffic, series_of
from bench.experiments.trials import Power, breached_after, false_positives, power_of, shown, trial
from bench.logs import show_warnings_only
from bench.report import describe_run, write_json
from core.experiments.analysis import analyse
from core.experiments.sizing import blocks_needed
from core.experiments.spec import Experiment
from core.experiments.unit_sums import UnitSums, total

RESULTS = Path(__file__).parents[1] / "results" / "experiments"
PARTS = ("series", "engine")
# The engine is at saturation with so many times the load.
LOAD, SATURATED, SLOT_S = 32, 4, 1.0
LENGTH = 3
FULL = "always full"
TRAFFIC = {FULL: Traffic(LOAD), "drifting load": Traffic(LOAD, spread=0.4, time_s=30.0)}
# Concurrency is a covariate only where nothing but the clients' number sets it, which here is so.
COVARIATES: dict[str, tuple[str, ...]] = {
    "none": (),
    "drift": ("drift",),
    "drift, concurrency": ("drift", "concurrency"),
}
EFFECTS = (1.01, 1.02, 1.03, 1.05, 1.1)
HARMS = (1.0, 1.05, 1.1, 1.2, 1.5)
HARM_LIMIT = 1.02
SPREADS = (0.01, 0.02, 0.05, 0.1)
# Guardrails are looked at after every block, which takes its time.
HARM_SERIES, HARM_BLOCKS = 40, 30


def main() -> None:
    """Read the command line, try everything, print and write."""
    parser = argparse.ArgumentParser(description="Try experiments where the truth is known, on a modelled machine.")
    parser.add_argument("parts", nargs="*", choices=PARTS, metavar="PART", help="series or engine (default: both)")
    parser.add_argument("--experiments", type=int, default=200, help="each over a series of its own")
    parser.add_argument("--blocks", type=int, default=100, help="of comparison in each series (default %(default)s)")
    parser.add_argument("--slots", type=int, default=100, help="of the winner's switchback (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=20_000, help="of the split and its truth (default %(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder (default %(default)s)")
    arguments = parser.parse_args()
    show_warnings_only()
    torch.set_num_threads(1)
    console = Console(highlight=False, soft_wrap=True)
    parts = arguments.parts or PARTS
    head: dict[str, Any] = {"modelled": True, "load": LOAD, "slot_s": SLOT_S}
    if "series" in parts:
        found, powers = try_series(arguments.experiments, arguments.blocks, console)
        write_json(arguments.output / "series.json", describe_run() | head | found)
        draw_power(powers, arguments.output / "power.png")
    if "engine" in parts:
        found = {"winner": find_winner(arguments.slots), "split_by_requests": split(arguments.rounds)}
        console.print(found)
        write_json(arguments.output / "engine.json", describe_run() | head | found)
    console.print(f"modelled, not measured; wrote into {arguments.output}")


def try_series(
    num_experiments: int, num_blocks: int, console: Console
) -> tuple[dict[str, Any], dict[str, dict[str, list[Power]]]]:
    """Return what experiments over independent series find, by traffic; and their power."""
    report: dict[str, Any] = {}
    powers: dict[str, dict[str, list[Power]]] = {}
    same = trial("same", *(2 * [{"policy": "fixed", "parameters": {"length": LENGTH}}]))
    num_slots = same.block_len * (same.stop.pre_blocks + num_blocks) + 1
    for name, traffic in TRAFFIC.items():
        series = [series_of(seed, traffic, LENGTH, num_slots, SLOT_S) for seed in range(num_experiments)]
        console.print(f"{name}: {len(series)} series of {num_slots} slots")
        report[name], powers[name] = try_designs(same, series, console, has_drift=name != FULL)
    report["blocks_needed"] = {
        f"{spread:g}": {f"{effect:g}": blocks_needed(math.log(effect), spread, 24) for effect in EFFECTS}
        for spread in SPREADS
    }
    return report, powers


def try_designs(
    same: Experiment, series: Sequence[Sequence[UnitSums]], console: Console, *, has_drift: bool
) -> tuple[dict[str, Any], dict[str, list[Power]]]:
    """Return false positives, power and planted harms over independent series, and power by covariates."""
    number, a_a = len(series), {}
    powers: dict[str, list[Power]] = {}
    for label, cuped in COVARIATES.items():
        if "concurrency" in cuped and not has_drift:
            continue
        experiment = replace(same, cuped=cuped)
        a_a[label] = false_positives(experiment, series, number)
        console.print(f"A/A, covariates {label}: {a_a[label].count} of {number} find an effect")
        powers[label] = [power_of(experiment, series, number, effect) for effect in EFFECTS]
    console.print("\n".join(shown(powers)), markup=False)
    harms = {f"{harm:g}": harm_found(same, series, harm) for harm in HARMS}
    console.print("harm:", harms)
    plain = msgspec.to_builtins({"a_a": a_a, "power": powers}, str_keys=True)
    return plain | {"harm": harms}, powers


def harm_found(same: Experiment, series: Sequence[Sequence[UnitSums]], harm: float) -> dict[str, Any]:
    """Return how many experiments are stopped by a guardrail whose steps get longer, and after how long."""
    rule = replace(same.stop, trip=1.2, trip_blocks=3)
    guarded = replace(same, guardrails={"step_s": HARM_LIMIT}, stop=rule)
    most = len(series[0]) // same.block_len - same.stop.pre_blocks
    after = breached_after(guarded, series[:HARM_SERIES], min(len(series), HARM_SERIES), harm, min(most, HARM_BLOCKS))
    stopped = [one for one in after if one is not None]
    blocks = np.quantile(stopped, (0.5, 0.9)).tolist() if stopped else None
    return {"stopped": len(stopped), "of": len(after), "blocks_p50_p90": blocks, "within": min(most, HARM_BLOCKS)}


def find_winner(num_slots: int) -> dict[str, Any]:
    """Return what a switchback of `fixed 7` against `load_adaptive` finds at saturation, and what long runs do."""
    winner = trial("winner", {"policy": "fixed", "parameters": {"length": 7}}, {"policy": "load_adaptive"})
    primary = analyse(winner, switchback(winner, SATURATED * LOAD, num_slots, SLOT_S)).arms[0].primary
    # The same loads as the switchback's, and requests of others.
    treated, control = (
        total(alone(winner, arm, SATURATED * LOAD, num_slots, SLOT_S, seed=0)) for arm in ("treatment", "control")
    )
    return {
        "ratio": primary and primary.ratio,
        "blocks": primary and primary.num_blocks,
        "separate_runs": (treated.tokens / treated.seconds) / (control.tokens / control.seconds),
    }


def split(num_rounds: int) -> dict[str, float]:
    """Return what a split by requests shows of `fixed 7` against `fixed 3`, and what is true."""
    arms = [{"policy": "fixed", "parameters": {"length": length}} for length in (3, 7)]
    experiment = trial("split", *arms)
    rates = [throughput_alone(experiment, arm, 2 * SATURATED * LOAD, num_rounds) for arm in ("treatment", "control")]
    return {"shown": split_by_requests(experiment, 2 * SATURATED * LOAD, num_rounds), "true": rates[0] / rates[1]}


if __name__ == "__main__":
    main()
