"""Measure a trained pair with the real engine: what it gets right, how sure it is, how much of its drafts is accepted.

Everything is held out: operands and parameters never trained on, whole templates, whole packages of the library.
Accepted length is measured at temperature 1 and, before any loop, at 0, beside n-gram lookup.
"""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from core.types import Sampling
from drafters.base import Drafter
from drafters.dspark import DSpark
from drafters.ngram import NGram
from engine.completion import Completion
from engine.engine import Engine
from engine.shape import EngineShape
from models.load_drafter import load_dspark
from models.load_target import eos_token_ids, load_target
from policies.fixed import Fixed
from training.accepted_length import AcceptedLength, accepted_length
from training.budget import Budget
from training.chatml import render_prompt
from training.corpus import read_corpus
from training.onpolicy import MAX_NEW_TOKENS, SOURCES, prompt_source
from training.packing import encode_library
from training.record import write_json
from training.target import TargetRecipe, held_out_losses, load_trained
from training.tasks.catalog import DOMAINS, is_right, tasks
from training.tasks.task import Task

LIBRARY = "library"
SEED = 4242
NUM_SAMPLES = 2
TEMPERATURES = (1.0, 0.0)


class Share(msgspec.Struct, frozen=True):
    """How many of how many."""

    part: int
    whole: int

    def __str__(self) -> str:
        return f"{self.part}/{self.whole}" if self.whole else ""


class Measurement(msgspec.Struct, frozen=True):
    """One domain at one temperature; right answers are split by what was unseen, operands or whole templates."""

    domain: str
    temperature: float
    dspark: AcceptedLength
    ngram: AcceptedLength
    unseen_keys: Share
    unseen_templates: Share
    samples: tuple[tuple[str, str], ...]


class Report(msgspec.Struct, frozen=True):
    """Everything measured of a pair."""

    nats_per_token: dict[str, float]
    measurements: list[Measurement]


class Pair:
    """A target with its drafter, loaded in float32, and the prompts to ask it."""

    def __init__(self, folder: Path, count: int) -> None:
        self.target = load_target(folder / "target", torch.float32)
        self.dspark = DSpark("dspark", load_dspark(folder / "dspark", self.target), self.target)
        self.tokenizer = Tokenizer.from_file(str(folder / "target" / "tokenizer.json"))
        self.files = encode_library(self.tokenizer, list(read_corpus().held_out.values()))
        self._eos_ids = eos_token_ids(folder / "target")
        self._count = count

    def tasks(self, domain: str) -> list[Task]:
        """Return held-out tasks of a domain."""
        return list(itertools.islice(tasks(domain, SEED, "held_out"), self._count))

    def prompts(self, source: str) -> list[tuple[int, ...]]:
        """Return the held-out prompts of a domain or of the library."""
        if source == LIBRARY:
            draw = prompt_source(self.tokenizer, LIBRARY, self.files, "held_out", SEED, (1.0,))
            return [tuple(draw().ids) for _ in range(self._count)]
        return [tuple(self.tokenizer.encode(render_prompt(task.messages)).ids) for task in self.tasks(source)]

    def generate(self, drafter: Drafter, source: str, temperature: float) -> list[Completion]:
        """Answer a source's prompts, every draft verified at full length."""
        shape = EngineShape(max_num_seqs=16, max_num_batched_tokens=1024)
        policies = {Fixed.name: lambda: Fixed(drafter.spec.max_drafts)}
        engine = Engine(self.target, {drafter.spec.name: drafter}, policies, shape, self._eos_ids)
        return engine.generate(
            self.prompts(source), Sampling(max_tokens=MAX_NEW_TOKENS[source], temperature=temperature)
        )


def evaluate(folder: Path, count: int) -> Report:
    """Measure the pair in `folder`/target and `folder`/dspark on `count` prompts of every source."""
    pair = Pair(folder, count)
    nats = held_out_losses(load_trained(folder / "target"), pair.tokenizer, pair.files, TargetRecipe(Budget(1.0)))
    measured = [measure(pair, source, temperature) for temperature in TEMPERATURES for source in SOURCES]
    return Report(nats, measured)


def measure(pair: Pair, source: str, temperature: float) -> Measurement:
    """Answer with both drafters; right answers and samples are those drafted by DSpark, whose law is the same."""
    done = pair.generate(pair.dspark, source, temperature)
    texts = [pair.tokenizer.decode(completion.token_ids) for completion in done]
    keys, templates = judge(pair.tasks(source), texts) if source in DOMAINS else (Share(0, 0), Share(0, 0))
    prompts = [pair.tokenizer.decode(list(prompt)) for prompt in pair.prompts(source)[:NUM_SAMPLES]]
    return Measurement(
        source,
        temperature,
        accepted_length(done),
        accepted_length(pair.generate(NGram(), source, temperature)),
        keys,
        templates,
        tuple(zip(prompts, texts, strict=False)),
    )


def judge(chosen: Sequence[Task], texts: Sequence[str]) -> tuple[Share, Share]:
    """Count right answers to seen templates with unseen operands, and to unseen templates."""
    held_out = DOMAINS[chosen[0].domain].held_out_templates
    right = [(task.template in held_out, is_right(task, text)) for task, text in zip(chosen, texts, strict=True)]
    old, new = ([ok for is_new, ok in right if is_new is wanted] for wanted in (False, True))
    return Share(sum(old), len(old)), Share(sum(new), len(new))


def show(report: Report, console: Console) -> None:
    """Print samples at temperature 1, then the tables."""
    for one in report.measurements:
        for prompt, text in one.samples if one.temperature else ():
            console.rule(one.domain)
            console.print(f"{prompt[-300:]}\n-> {text}", markup=False, highlight=False)
    table = Table(
        "domain", "T", "right, unseen operands", "right, unseen templates", "DSpark", "n-gram", "before loops"
    )
    for one in report.measurements:
        lengths = [
            f"{len_.mean.estimate:.2f} [{len_.mean.low:.2f}, {len_.mean.high:.2f}]" for len_ in (one.dspark, one.ngram)
        ]
        table.add_row(
            one.domain, f"{one.temperature:g}", str(one.unseen_keys), str(one.unseen_templates), *lengths,
            f"{one.dspark.before_loops:.0%}",
        )  # fmt: skip
    console.print(table)
    survival = Table("domain", "T", *(f"draft {k + 1}" for k in range(7)), title="DSpark: survival by position")
    for one in report.measurements:
        survival.add_row(one.domain, f"{one.temperature:g}", *(f"{value:.2f}" for value in one.dspark.survival))
    console.print(survival)
    nats = ", ".join(f"{name} {loss:.2f}" for name, loss in report.nats_per_token.items())
    console.print(f"held-out nats per token: {nats}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure a target and its drafter on held-out text.")
    parser.add_argument("folder", type=Path, help="holds target/ and dspark/")
    parser.add_argument("--count", type=int, default=100, help="prompts per domain and temperature")
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    report = evaluate(arguments.folder, arguments.count)
    show(report, Console())
    if arguments.output:
        write_json(arguments.output, msgspec.to_builtins(report))


if __name__ == "__main__":
    main()
