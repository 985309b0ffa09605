"""`specd prove`: do the certificate's checks, show them as they are done, write the report, keep a drafter's proof."""

import argparse
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console

from bench.logs import show_warnings_only
from bench.prove.candidate import candidate
from bench.prove.cells import DRAFTERS, NUM_DRAFTS
from bench.prove.certificate import Line, Summary, certify, scope_of, summarise
from bench.prove.report import write_report
from bench.prove.tiny import tiny_target
from core.errors import ConfigError
from core.registry import DRAFTERS as REGISTERED
from engine.proofs import Proof, identify, keep


def run(arguments: argparse.Namespace, proof_dir: Path | None) -> int:
    """Prove; returns 1 if any check fails. A drafter of a package that passes has its proof kept in proof_dir.

    Raises ConfigError for a drafter that cannot be made, and where its proof could not be kept.
    """
    console = Console(highlight=False)
    show_warnings_only()
    torch.set_num_threads(1)
    scope = scope_of(is_full=arguments.full, drafter=arguments.drafter, seed=arguments.seed)
    is_strange = arguments.drafter is not None and not REGISTERED.is_shipped(arguments.drafter)
    if is_strange and proof_dir is None:
        raise ConfigError("a proof needs a folder to be kept in; set engine.proof_dir")
    makers = DRAFTERS if arguments.drafter is None else {arguments.drafter: candidate(arguments.drafter)}
    lines = list(shown(console, certify(scope, makers)))
    summary = summarise(scope, lines)
    show_summary(console, summary)
    if arguments.output:
        page, data = write_report(arguments.output, summary, lines)
        console.print(f"wrote {page} and {data.name}")
    if is_strange and summary.passes:
        assert proof_dir is not None
        console.print(f"proof kept as {keep_proof(arguments.drafter, summary, proof_dir)}")
    return 0 if summary.passes else 1


def shown(console: Console, lines: Iterator[Line]) -> Iterator[Line]:
    """Pass lines on; print a row for each section that is done, and every failure at once."""
    section, count, seconds = "", 0, 0.0
    with console.status("proving") as status:
        for line in lines:
            if section not in ("", line.section):
                console.print(f"{section:<24}{count:>4} checks {seconds:>8.1f} s")
                count, seconds = 0, 0.0
            section, count, seconds = line.section, count + 1, seconds + line.seconds
            status.update(f"{section}: {count} checks, {line.name}")
            if not line.outcome.passes:
                console.print(f"FAILED {section}: {line.name}: {line.outcome.detail}", style="red", markup=False)
            yield line
    console.print(f"{section:<24}{count:>4} checks {seconds:>8.1f} s")


def show_summary(console: Console, summary: Summary) -> None:
    """Print what the certificate amounts to."""
    console.print(
        f"{summary.num_tests} chi-square tests at alpha {summary.alpha:g} (family-wise rate "
        f"{summary.family_rate:.2%}), {summary.draws_per_test} draws each: a total variation of "
        f"{summary.variation:g} is found with power {summary.power}"
    )
    if summary.num_planted:
        console.print(f"planted bugs caught: {summary.num_caught} of {summary.num_planted}")
    passed = summary.num_checks - summary.num_failed
    verdict = "exact" if summary.passes else "NOT PROVED"
    console.print(f"{verdict}: {passed} of {summary.num_checks} checks passed in {summary.seconds:.0f} s", style="bold")


def keep_proof(name: str, summary: Summary, folder: Path) -> Path:
    """Keep the proof of a drafter that has passed."""
    kind = type(candidate(name)(tiny_target(NUM_DRAFTS + 2)))
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    return keep(folder, Proof(identify(name, kind), version("specd"), finished, summary.num_checks))
