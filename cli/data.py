"""`specd data generate` and `specd data prepare`: from prompts to answers of the target, and on to training shards."""

import argparse
import asyncio
import sys

from rich.console import Console

from cli.api_key import api_key
from core.errors import ConfigError
from models.folders import target_folder
from training.data.generate import Progress, Sampling, Work, generate
from training.data.generation_progress import shown
from training.data.held_out_lines import HELD_OUT_FILE
from training.data.lines import Problems
from training.data.prepare import Choices, prepare


def run(arguments: argparse.Namespace) -> int:
    """Run one step; returns 0. Raises ConfigError for impossible flags, DataError for what stops it."""
    check_range("--max-line-mib", arguments.max_line_mib, 0.001, 1024)
    return STEPS[arguments.step](arguments)


def run_generate(arguments: argparse.Namespace) -> int:
    """Have a running server answer, and write what it wrote."""
    check_range("--concurrency", arguments.concurrency, 1, 4096)
    check_range("--samples", arguments.samples, 1, 1 << 20)
    check_range("--temperature", arguments.temperature, 0, 2)
    check_range("--patience", arguments.patience, 0, 1e6)
    sampling = Sampling(
        arguments.model,
        arguments.max_tokens,
        arguments.temperature,
        arguments.top_p,
        arguments.top_k,
        arguments.seed,
        arguments.samples,
    )
    work = Work(
        arguments.sources,
        arguments.output,
        arguments.url,
        api_key(arguments),
        read_worker(arguments.worker),
        arguments.concurrency,
        arguments.limit,
        arguments.patience,
        int(arguments.max_line_mib * (1 << 20)),
    )
    progress, console = Progress(), Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    problems = Problems(console.print, are_fatal=arguments.bad_lines == "fatal")
    with shown(progress, console):
        asyncio.run(generate(work, sampling, problems, progress, console.print))
    print(
        f"{progress.num_answered} answered, {progress.num_before} were there, {progress.num_refused} refused, "
        f"{problems.num} bad lines, {progress.num_tokens} tokens, {progress.num_retries} retries"
    )
    return 1 if progress.num_refused else 0


def read_worker(text: str) -> tuple[int, int]:
    """Read --worker: this process's number, from 1, and how many there are. Raises ConfigError."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ConfigError(f"--worker must be I/N with I in 1..N, such as 2/4, got {text!r}")
    return int(number), int(count)


def run_prepare(arguments: argparse.Namespace) -> int:
    """Write shards and the data card."""
    check_range("--held-out", arguments.held_out, 0, 1)
    check_range("--near-duplicates", arguments.near_duplicates, 0.3, 2)
    check_range("--max-len", arguments.max_len, 2, 1 << 24)
    check_range("--min-answer-tokens", arguments.min_answer_tokens, 1, arguments.max_len)
    choices = Choices(
        arguments.held_out,
        arguments.near_duplicates,
        arguments.max_len,
        arguments.min_answer_tokens,
        int(arguments.max_line_mib * (1 << 20)),
    )
    target = target_folder(arguments.target, arguments.target_revision)
    are_fatal = arguments.bad_lines == "fatal"
    card = prepare(arguments.sources, target, arguments.output, choices, tell, are_fatal=are_fatal)
    for name, part in card.parts.items():
        print(f"{name}: {part.num_documents} documents, {part.num_tokens} tokens, {part.num_learnt} to learn")
    print(f"{sum(card.bad_lines.values())} bad lines; all counts in {arguments.output / 'card.md'}")
    held_out = arguments.output / HELD_OUT_FILE
    if held_out.is_file():
        pair = f"--target {arguments.target} --drafter FOLDER"
        print(f"judge on what was held out: specd eval {held_out} {pair}")
        print(f"calibrate on it:            specd calibrate {pair} --prompts {held_out}")
    return 0


def tell(line: str) -> None:
    """Say something beside the results."""
    print(line, file=sys.stderr, flush=True)


def check_range(flag: str, value: float, least: float, most: float) -> None:
    """Raise ConfigError for a flag out of bounds."""
    if not least <= value <= most:
        raise ConfigError(f"{flag} must be in {least:g}..{most:g}, got {value:g}")


STEPS = {"generate": run_generate, "prepare": run_prepare}
