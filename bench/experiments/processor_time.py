"""Experiments on the demo pair by the processor time of the engine's thread: what others do on the machine is left out.

    python -m bench.experiments.processor_time     # some four minutes of one core
    python -m bench.experiments.processor_time --numerics batch_invariant

The real engine with one thread, never out of requests, whose arms take turns as in a worker. Seconds are those that the
processor spent on this thread: on a machine that does other things as well, time on the wall says more of those.
Three questions: does a switchback find what separate long runs find, does it find nothing in A/A, and does a replay of
recorded requests predict the speed ratio; in `batch_invariant` numerics its texts must be identical to the last token.
"""

import argparse
import time
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from bench.experiments.modelled import arm_at, is_pre
from bench.experiments.replay import ExperimentReplay, play
from bench.experiments.trials import trial
from bench.logs import show_warnings_only
from bench.modes import mode_settings
from bench.prompt_pool import PromptPool
from bench.report import describe_run, write_json
from bench.summary import paired_ratio
from core.config import EngineSettings
from core.errors import SpecdError
from core.experiments.analysis import Analysis, analyse
from core.experiments.spec import Experiment
from core.experiments.unit_sums import UnitRecord, UnitSums
from core.recorded_request import RecordedRequest
from core.statistics import Interval
from core.types import Request, Sampling
from engine.arms import make_arms, serve_arms
from engine.build import build_engine
from engine.engine import Engine
from engine.groups import Arm

RESULTS = Path(__file__).parents[1] / "results" / "experiments"
SLOTS = 16
FIXED: dict[str, Any] = {"policy": "fixed", "parameters": {"length": 7}}
ADAPTIVE: dict[str, Any] = {"policy": "load_adaptive"}
RULE = {"pre_blocks": 5, "min_blocks": 12, "max_blocks": 1000}
# After a turn of another policy sequences catch up, and a policy finds its length anew.
BURN_IN_SHARE = 0.33
# How far a replay's prediction may be off.
MOST_OFF = 0.05


class Loop:
    """An engine that is never out of requests."""

    def __init__(self, engine: Engine, pool: PromptPool) -> None:
        assert engine.tokenizer is not None
        self.engine, self._encode, self._questions = engine, engine.tokenizer.encode, pool.asked_from(0)
        self._num_sent = 0

    def run_for(self, seconds: float) -> UnitSums:
        """Step for so many seconds of this thread's processor time; requests are taken in outside of it."""
        stats, sums = self.engine.stats, UnitSums()
        before = stats.steps, stats.emitted, stats.rounds, stats.verified, stats.accepted
        while sums.seconds < seconds:
            while self.engine.num_free_slots:
                self._send()
            started = time.thread_time()
            self.engine.step()
            sums.seconds += time.thread_time() - started
        after = stats.steps, stats.emitted, stats.rounds, stats.verified, stats.accepted
        sums.steps, sums.tokens, sums.rounds, sums.verified, sums.accepted = (
            now - then for now, then in zip(after, before, strict=True)
        )
        sums.busy_s = sums.seconds
        return sums

    def _send(self) -> None:
        question, name = next(self._questions), str(self._num_sent)
        sampling = Sampling(max_tokens=question.max_tokens, temperature=1.0)
        prompt = tuple(self._encode(question.text))
        self.engine.add(Request(name, prompt, sampling, nonce=self._num_sent, cache_salt=name))
        self._num_sent += 1


def main() -> None:
    """Read the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description="Run experiments by the processor time of the engine.")
    parser.add_argument("--blocks", type=int, default=16, help="of comparison (default %(default)s)")
    parser.add_argument("--slot", type=float, default=3.0, help="seconds of a slot (default %(default)s)")
    parser.add_argument("--requests", type=int, default=64, help="to replay (default %(default)s)")
    parser.add_argument("--domains", nargs="+", default=["library"], help="of the prompts (default %(default)s)")
    parser.add_argument("--numerics", default="fast", choices=["fast", "batch_invariant"], help="(default %(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder (default %(default)s)")
    arguments = parser.parse_args()
    show_warnings_only()
    torch.set_num_threads(1)
    console = Console(highlight=False, soft_wrap=True)
    settings = mode_settings(
        "load_adaptive", "dspark", EngineSettings(max_num_seqs=SLOTS, numerics=arguments.numerics, prefix_cache=False)
    )
    pool, engine = PromptPool(arguments.domains, 0), build_engine(settings)
    loop = Loop(engine, pool)
    experiment = trial("a-b", FIXED, ADAPTIVE, stop=RULE)
    arms = make_arms(experiment, settings)
    report: dict[str, Any] = describe_run() | {"slot_s": arguments.slot, "numerics": arguments.numerics}
    output = arguments.output / f"processor_time_{arguments.numerics}.json"

    def tell(name: str, found: dict[str, Any]) -> None:
        report[name] = found
        console.print(f"{name}:", found)
        write_json(output, report)

    tell("a_b", shown(switchback(loop, experiment, arms, arguments)))
    tell("long_runs", long_runs(loop, experiment, arms, arguments))
    for sequence in (*engine.scheduler.running, *engine.scheduler.waiting):
        engine.abort(sequence.request.id)
    replayed = replay(engine, experiment, arms, pool, arguments)
    tell("replay", predicted(replayed, report["long_runs"]["ratio"]))
    same = trial("a-a", FIXED, FIXED, stop=RULE)
    tell("a_a", shown(switchback(loop, same, make_arms(same, settings), arguments)))
    if not replayed.is_identical:
        raise SystemExit("bench: a text depends on the policy")


def switchback(loop: Loop, experiment: Experiment, arms: dict[str, Arm], arguments: argparse.Namespace) -> Analysis:
    """Let arms take turns and return what the units say."""
    records = []
    num_slots = experiment.block_len * (experiment.stop.pre_blocks + arguments.blocks) + 1
    for slot in range(num_slots):
        own, before = arm_at(experiment, slot), is_pre(experiment, slot)
        serve_alone(loop.engine, arms[experiment.control_arm if before else own])
        loop.run_for(BURN_IN_SHARE * arguments.slot)
        sums = loop.run_for((1 - BURN_IN_SHARE) * arguments.slot)
        records.append(UnitRecord(experiment.id, experiment.digest, "here", slot, own, sums, before))
    return analyse(experiment, records)


def long_runs(
    loop: Loop, experiment: Experiment, arms: dict[str, Arm], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Return each arm's tokens per second in two long runs of its own, in the order A B B A, and their ratio."""
    seconds = arguments.slot * arguments.blocks / 3
    control, treatment = experiment.control_arm, experiment.treatments[0]
    rates: dict[str, list[float]] = {control: [], treatment: []}
    for name in (control, treatment, treatment, control):
        serve_alone(loop.engine, arms[name])
        loop.run_for(arguments.slot)
        for _ in range(4):
            sums = loop.run_for(seconds / 4)
            rates[name].append(sums.tokens / sums.seconds)
    ratio = paired_ratio(rates[treatment], rates[control])
    return {"tokens_per_s": rates, "ratio": ratio}


def replay(
    engine: Engine, experiment: Experiment, arms: dict[str, Arm], pool: PromptPool, arguments: argparse.Namespace
) -> ExperimentReplay:
    """Play the pool's first questions under both arms."""
    assert engine.tokenizer is not None
    recorded = [
        RecordedRequest(f"r{number}", tuple(engine.tokenizer.encode(one.text)), (0,) * one.max_tokens, 1.0)
        for number, one in enumerate(islice(pool.asked_from(0), arguments.requests))
    ]
    return play(engine, arms, experiment, recorded, arguments.numerics, time.thread_time)


def shown(found: Analysis) -> dict[str, Any]:
    """Return what an experiment came to."""
    primary = found.arms[0].primary
    return {
        "advice": found.advice,
        "why": found.why,
        "blocks": primary and primary.num_blocks,
        "ratio": primary and primary.ratio,
        "unadjusted": primary and primary.unadjusted,
        "spread": primary and primary.spread,
        "before_p": found.trust.before_p,
    }


def predicted(replayed: ExperimentReplay, live: Interval) -> dict[str, Any]:
    """Return the replay's ratio over that of the long runs, and how many texts were identical."""
    treatment = replayed.arms[1]
    off = treatment.ratio.estimate / live.estimate
    return {
        "ratio": treatment.ratio,
        "over_live": off,
        "is_within": abs(off - 1) <= MOST_OFF,
        "identical_texts": treatment.num_identical,
        "requests": replayed.num_requests,
        "stretches": replayed.num_stretches,
    }


def serve_alone(engine: Engine, arm: Arm) -> None:
    """Let one arm serve everybody."""
    serve_arms(engine, partial(_always, arm))


def _always(arm: Arm, request: Request) -> Arm:  # noqa: ARG001
    return arm


if __name__ == "__main__":
    try:
        main()
    except SpecdError as error:
        raise SystemExit(f"bench: {error}") from error
