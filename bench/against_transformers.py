"""specd beside Hugging Face transformers: same weights, same prompts, same batches, one thread, by turns.

    python -m bench.against_transformers
    python -m bench.against_transformers --batches 1 --temperature 0 --minutes 2 --assistant FOLDER

First the log-probabilities of both are compared along a greedy answer; then batches are answered, each by every mode in
random order: all its requests at once, the next batch when the last of them ended. Static batches are all that generate
can do; specd, which would refill at once, gets no more. Prompt lookup and an assistant serve one request at a time. The
assistant must be an ordinary causal LM with the target's tokenizer; this repository ships none, so it is run only with
--assistant.
"""

import argparse
import random
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import torch
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from bench.logs import show_warnings_only
from bench.modes import make_modes
from bench.prompt_pool import PromptPool
from bench.report import describe_run, shown_interval, write_json
from bench.summary import paired_ratio
from bench.transformers_baseline import Baseline, largest_difference, load_model
from core.config import EngineSettings, NoDrafterSettings, OffSettings, Settings
from core.errors import SpecdError
from core.repetition import loop_start
from core.statistics import Interval
from core.types import Request, Sampling
from engine.build import build_engine
from engine.engine import Engine
from models.folders import target_folder

RESULTS = Path(__file__).parent / "results" / "against_transformers.json"
LOOKUP_TOKENS = 7
SPECD_MODES = ("off", "confidence", "load_adaptive")
# Interval limits need a few batches, however long one takes.
MIN_BATCHES = 4

Answer = Callable[[Sequence[Sequence[int]], int, float], list[list[int]]]


class Speed(Struct, frozen=True):
    """One mode at one batch size: tokens per second, and its ratio to transformers' fastest plain generate."""

    mode: str
    batch: int
    num_batches: int
    tokens_per_s: float
    ratio: Interval | None


class EngineBaseline:
    """specd's engine behind the same call: a batch in, its answers out."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def answer(self, prompts: Sequence[Sequence[int]], max_tokens: int, temperature: float) -> list[list[int]]:
        """Answer a batch; a greedy answer ends where it begins to repeat itself."""
        answers: list[list[int]] = [[] for _ in prompts]
        sampling = Sampling(max_tokens=max_tokens, temperature=temperature)
        salt = secrets.token_hex(8)
        for index, ids in enumerate(prompts):
            request = Request(str(index), tuple(ids), sampling, secrets.randbits(64), cache_salt=f"{salt}{index}")
            self.engine.add(request)
        while self.engine.has_work:
            for emission in self.engine.step():
                own = answers[int(emission.request_id)]
                own.extend(emission.token_ids)
                if temperature == 0 and loop_start(own) < len(own):
                    self.engine.abort(emission.request_id)
        return answers


def main() -> None:
    """Read the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description="Compare specd with transformers on the same weights, one thread.")
    parser.add_argument("--target", default="demo", help='"demo" or a checkpoint folder')
    parser.add_argument("--drafter", default="dspark", help="a kind or a checkpoint (default %(default)s)")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 16], help="requests at once (default 1 4 16)")
    parser.add_argument("--modes", nargs="+", default=list(SPECD_MODES), help="specd's modes")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], help="transformers' dtypes")
    parser.add_argument("--assistant", type=Path, help="folder of a small causal LM with the same tokenizer")
    parser.add_argument("--domains", nargs="+", default=["math", "code", "chat"])
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    console = Console(highlight=False)
    show_warnings_only()
    folder = target_folder(arguments.target)
    engines = specd_engines(arguments)
    difference = check_same_law(arguments, folder)
    console.print(f"log-probabilities of transformers and specd agree to {difference:.1e}")
    if arguments.assistant is None:
        console.print("no assistant model: this repository has no small causal LM of its own; give one by --assistant")
    eos_ids = next(iter(engines.values())).eos_ids
    single, batched = transformers_modes(arguments, folder, eos_ids)
    speeds: list[Speed] = []
    for batch in arguments.batches:
        modes = batched | (single if batch == 1 else {})
        modes |= {f"specd {name}": EngineBaseline(engine).answer for name, engine in engines.items()}
        speeds += compare(modes, batch, arguments, next(iter(engines.values())))
    console.print(speed_table(speeds))
    report = describe_run(("specd", "torch", "transformers")) | {
        "temperature": arguments.temperature,
        "domains": arguments.domains,
        "logprob_difference": difference,
        "assistant": str(arguments.assistant) if arguments.assistant else None,
        "speeds": msgspec.to_builtins(speeds),
    }
    write_json(arguments.output, report)
    console.print(f"machine: {report['machine']}\nwrote {arguments.output}")


def specd_engines(arguments: argparse.Namespace) -> dict[str, Engine]:
    """Return one engine per mode of specd."""
    settings = EngineSettings(target=arguments.target, max_num_seqs=max(arguments.batches))
    modes = make_modes(arguments.modes, arguments.drafter, settings)
    return {mode.name: build_engine(mode.settings) for mode in modes}


def check_same_law(arguments: argparse.Namespace, folder: Path) -> float:
    """Return the largest difference of log-probabilities in float32; raises SpecdError if it is too large."""
    plain = EngineSettings(target=arguments.target, dtype="float32")
    engine = build_engine(Settings(engine=plain, drafter=NoDrafterSettings(), policy=OffSettings()))
    assert engine.tokenizer is not None
    question = next(PromptPool(arguments.domains, arguments.seed).asked_from(0))
    return largest_difference(load_model(folder, torch.float32), engine, tuple(engine.tokenizer.encode(question.text)))


def transformers_modes(
    arguments: argparse.Namespace, folder: Path, eos_ids: Sequence[int]
) -> tuple[dict[str, Answer], dict[str, Answer]]:
    """Return transformers' modes: those that take one request at a time, and those that take batches."""
    single: dict[str, Answer] = {}
    batched: dict[str, Answer] = {}
    for dtype in arguments.dtypes:
        model = load_model(folder, getattr(torch, dtype))
        batched[f"transformers {dtype}"] = Baseline(model, eos_ids, {}).answer
        lookup = {"prompt_lookup_num_tokens": LOOKUP_TOKENS}
        single[f"transformers lookup {dtype}"] = Baseline(model, eos_ids, lookup).answer
        if arguments.assistant is not None:
            options: dict[str, Any] = {"assistant_model": load_model(arguments.assistant, getattr(torch, dtype))}
            single[f"transformers assistant {dtype}"] = Baseline(model, eos_ids, options).answer
    return single, batched


def compare(modes: dict[str, Answer], size: int, arguments: argparse.Namespace, reader: Engine) -> list[Speed]:
    """Answer batches of `size` by every mode in turn, for this size's share of the minutes."""
    assert reader.tokenizer is not None
    rng = random.Random(arguments.seed)  # noqa: S311, a seed must give the same order
    questions = PromptPool(arguments.domains, arguments.seed).asked_from(0)
    rates: dict[str, list[float]] = {name: [] for name in modes}
    deadline = time.monotonic() + arguments.minutes * 60 / len(arguments.batches)
    # The first batch warms up and is thrown away.
    for number in range(sys.maxsize):
        if number > MIN_BATCHES and time.monotonic() > deadline:
            break
        batch = list(islice(questions, size))
        prompts = [reader.tokenizer.encode(question.text) for question in batch]
        max_tokens = max(question.max_tokens for question in batch)
        for name in rng.sample(list(modes), len(modes)):
            started = time.perf_counter()
            answers = modes[name](prompts, max_tokens, arguments.temperature)
            seconds = time.perf_counter() - started
            if number:
                rates[name].append(count_tokens(answers, greedy=arguments.temperature == 0) / seconds)
    plain = max((name for name in modes if name in PLAIN), key=lambda name: sum(rates[name]), default=None)
    return [
        Speed(name, size, len(own), sum(own) / len(own), paired_ratio(own, rates[plain]) if plain else None)
        for name, own in rates.items()
    ]


PLAIN = ("transformers float32", "transformers bfloat16")


def count_tokens(answers: Sequence[Sequence[int]], *, greedy: bool) -> int:
    """Return the tokens of all answers; greedy ones count up to where they begin to repeat themselves."""
    return sum(loop_start(answer) if greedy else len(answer) for answer in answers)


def speed_table(speeds: Sequence[Speed]) -> Table:
    """Return the speeds as a table."""
    table = Table("mode", "at once", "tokens/s", "ratio to plain transformers", "batches", box=None)
    for speed in speeds:
        rate, ratio = f"{speed.tokens_per_s:.0f}", shown_interval(speed.ratio)
        table.add_row(speed.mode, str(speed.batch), rate, ratio, str(speed.num_batches))
    return table


if __name__ == "__main__":
    try:
        main()
    except SpecdError as error:
        raise SystemExit(f"bench: {error}") from error
