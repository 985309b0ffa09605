"""What a replay of recorded requests predicts of two policies' speeds, held against engines that serve such requests.

    python -m bench.experiments.predicted          # some five minutes on a quiet machine
    python -m bench.experiments.predicted --requests 64 --windows 3 --window 2

Replay: the first requests of a pool, played to the end under either policy (bench/experiments/replay.py), whose texts
must be identical to the last token. Live: two engines with clients that never stop asking, questions of the same pool,
by turns, in this process. Both in `batch_invariant` numerics. Half of the live windows come before the replay, half
after it, so that what else the machine does hits both alike.
"""

import argparse
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from bench.experiments.replay import ExperimentReplay, RecordedRequest, play
from bench.experiments.trials import trial
from bench.in_process import EngineTarget
from bench.interleave import Schedule, measure
from bench.load import Load
from bench.logs import show_warnings_only
from bench.modes import mode_settings
from bench.prompt_pool import PromptPool
from bench.report import describe_run, write_json
from bench.summary import paired_ratio
from core.config import EngineSettings
from core.errors import SpecdError
from core.statistics import Interval
from engine.arms import make_arms
from engine.build import build_engine

RESULTS = Path(__file__).parents[1] / "results" / "experiments" / "predicted.json"
SLOTS = 16
NAMES = ("load_adaptive", "fixed:7")
# How far the prediction may be off.
MOST_OFF = 0.05


def main() -> None:
    """Read the command line, replay and measure, print and write."""
    parser = argparse.ArgumentParser(description="Hold a replay's predicted speeds against live ones.")
    parser.add_argument("--requests", type=int, default=128, help="to replay (default %(default)s)")
    parser.add_argument("--windows", type=int, default=8, help="of each engine (default %(default)s)")
    parser.add_argument("--window", type=float, default=5.0, help="seconds of one (default %(default)s)")
    parser.add_argument("--domains", nargs="+", default=["library"], help="of the prompts (default %(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    show_warnings_only()
    torch.set_num_threads(1)
    console = Console(highlight=False, soft_wrap=True)
    pool = PromptPool(arguments.domains, 0)
    first = live(arguments, pool, 1, console)
    replayed = replay(arguments, pool)
    console.print(replayed.markdown, markup=False)
    second = live(arguments, pool, 2, console)
    rates = [before + after for before, after in zip(first, second, strict=True)]
    ratio = paired_ratio(rates[0], rates[1])
    assert ratio is not None
    report = summary(replayed, ratio) | {"tokens_per_s": dict(zip(NAMES, rates, strict=True))}
    console.print(report)
    write_json(arguments.output, describe_run() | report)
    if not replayed.is_identical:
        raise SystemExit("bench: a text depends on the policy")


def replay(arguments: argparse.Namespace, pool: PromptPool) -> ExperimentReplay:
    """Play the pool's first requests under both policies on one engine."""
    settings = mode_settings(NAMES[0], "dspark", engine_settings())
    experiment = trial("predicted", {"policy": "fixed", "parameters": {"length": 7}}, {"policy": "load_adaptive"})
    engine = build_engine(settings)
    assert engine.tokenizer is not None
    recorded = [
        RecordedRequest(str(number), tuple(engine.tokenizer.encode(one.text)), (0,) * one.max_tokens, 1.0)
        for number, one in enumerate(islice(pool.asked_from(0), arguments.requests))
    ]
    return play(engine, make_arms(experiment, settings), experiment, recorded, settings.engine.numerics)


def live(arguments: argparse.Namespace, pool: PromptPool, seed: int, console: Console) -> list[list[float]]:
    """Return half of the windows' tokens per second, by policy."""
    targets = [EngineTarget(name, build_engine(mode_settings(name, "dspark", engine_settings()))) for name in NAMES]
    schedule = Schedule(max(1, arguments.windows // 2), arguments.window, arguments.window)
    load = Load(SLOTS, 1.0)
    found = measure(targets, [load], pool, schedule, seed, console.print)[load]
    return [[window.tokens_per_s for window in found[name]] for name in NAMES]


def engine_settings() -> EngineSettings:
    """Return the engine's settings, those of replay and of live windows alike."""
    return EngineSettings(max_num_seqs=SLOTS, numerics="batch_invariant", prefix_cache=False)


def summary(replayed: ExperimentReplay, ratio: Interval) -> dict[str, Any]:
    """Return the predicted ratio of the second arm, the live one, and one over the other."""
    predicted = replayed.arms[1]
    off = predicted.ratio.estimate / ratio.estimate
    return {
        "predicted": predicted.ratio,
        "live": ratio,
        "predicted_over_live": off,
        "is_within": abs(off - 1) <= MOST_OFF,
        "identical_texts": predicted.num_identical,
        "requests": replayed.num_requests,
    }


if __name__ == "__main__":
    try:
        main()
    except SpecdError as error:
        raise SystemExit(f"bench: {error}") from error
