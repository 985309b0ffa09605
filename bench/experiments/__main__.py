"""What the designs of experiments find of a known truth, on a modelled machine.

python -m bench.experiments                # 200 A/A experiments, power for 3 %, a winner, a split that misleads
python -m bench.experiments --slots 120 --experiments 40
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from bench.experiments.modelled import alone, split_by_requests, switchback, throughput_alone
from bench.experiments.trials import false_positives, found_after, trial
from bench.logs import show_warnings_only
from bench.report import describe_run, write_json
from core.experiments.analysis import analyse
from core.experiments.unit_sums import total

RESULTS = Path(__file__).parents[1] / "results" / "experiments.json"
LOAD, SLOT_S = 32, 4.0


def main() -> None:
    """Read the command line, try everything, print and write."""
    parser = argparse.ArgumentParser(description="Try experiments where the truth is known, on a modelled machine.")
    parser.add_argument("--slots", type=int, default=240, help="of each series (default %(default)s)")
    parser.add_argument("--series", type=int, default=8, help="independent series (default %(default)s)")
    parser.add_argument("--experiments", type=int, default=200, help="A/A experiments (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=20_000, help="of the split and its truth (default %(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    show_warnings_only()
    torch.set_num_threads(1)
    console = Console(highlight=False)
    report: dict[str, Any] = describe_run() | {"modelled": True, "load": LOAD, "slot_s": SLOT_S}
    same = trial(
        "same", {"policy": "fixed", "parameters": {"length": 3}}, {"policy": "fixed", "parameters": {"length": 3}}
    )
    series = [alone(same, "control", LOAD, arguments.slots, SLOT_S, seed) for seed in range(arguments.series)]
    report["a_a"] = false_positives(same, series, arguments.experiments)
    console.print("A/A:", report["a_a"])
    report["power_of_3_percent"] = found_after(same, series, arguments.experiments, 1.03)
    console.print("3 %:", report["power_of_3_percent"])
    winner = trial("winner", {"policy": "fixed", "parameters": {"length": 7}}, {"policy": "load_adaptive"})
    found = analyse(winner, switchback(winner, 8 * LOAD, arguments.slots // 2, SLOT_S))
    long = [
        total(alone(winner, arm, 8 * LOAD, arguments.slots // 4, SLOT_S, seed=1)) for arm in ("treatment", "control")
    ]
    report["winner"] = {
        "advice": found.advice,
        "ratio": found.arms[0].primary and found.arms[0].primary.ratio,
        "separate_runs": (long[0].tokens / long[0].seconds) / (long[1].tokens / long[1].seconds),
    }
    console.print("winner:", report["winner"])
    split = trial(
        "split", {"policy": "fixed", "parameters": {"length": 3}}, {"policy": "fixed", "parameters": {"length": 7}}
    )
    rates = [throughput_alone(split, arm, 8 * LOAD, arguments.rounds) for arm in ("treatment", "control")]
    report["split_by_requests"] = {
        "shown": split_by_requests(split, 8 * LOAD, arguments.rounds),
        "true": rates[0] / rates[1],
    }
    console.print("split:", report["split_by_requests"])
    write_json(arguments.output, report)
    console.print(f"modelled, not measured; wrote {arguments.output}")


if __name__ == "__main__":
    main()
