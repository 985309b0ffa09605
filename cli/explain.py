"""`specd explain`: what the policies of a running server saw, expected and chose in their last steps."""

import argparse
import asyncio

from rich.console import Console
from rich.table import Table

from cli.api_key import api_key
from client.steps import WorkerSteps, fetch_steps
from core.step_record import StepRecord

COLUMNS = ("step", "drafter", "policy", "seqs", "survival", "rule", "drafts", "verified", "kept", "tokens", "ms")


def run(arguments: argparse.Namespace) -> int:
    """Print the last steps of every worker."""
    console = Console(highlight=False)
    for worker in asyncio.run(fetch_steps(arguments.url.rstrip("/"), api_key(arguments))):
        show(console, worker, arguments.steps)
    return 0


def show(console: Console, worker: WorkerSteps, num_steps: int) -> None:
    """Print a table of one worker's steps, newest last; expectations stand before what happened."""
    steps = worker.steps[-num_steps:]
    if not steps:
        console.print(f"worker {worker.worker}: no step with a drafter so far")
        return
    table = Table(*COLUMNS, box=None, title=f"worker {worker.worker}", title_justify="left")
    for step in steps:
        table.add_row(*cells(step))
    console.print(table)
    newest = steps[-1]
    console.print(
        f"newest step: {newest.sequences} sequences, {newest.stale} of them with a drafter that is behind, "
        f"{newest.context_len:.0f} tokens of context on average, {newest.extra_rows} rows of others; "
        f"{newest.kv_free:.0%} of the KV cache free; {newest.queue_depth} requests wait, "
        f"the oldest for {newest.oldest_wait_s:.1f} s"
    )
    console.print(
        "survival: drafts that the last known blocks were expected to yield, per sequence; tokens and ms: what the "
        "policy expected -> what came",
        style="dim",
    )


def cells(step: StepRecord) -> tuple[str, ...]:
    """Return one row of the table."""
    sequences = f"{step.sequences}" + (f" ({step.probed} probed)" if step.probed else "")
    return (
        str(step.step),
        step.drafter,
        step.policy,
        sequences,
        "-" if step.survival is None else f"{step.survival:.2f}",
        step.rule if step.planned else "no drafts",
        str(step.drafted),
        str(step.verified),
        str(step.accepted),
        f"{_expected(step.predicted_tokens, 1.0)} -> {step.tokens}",
        f"{_expected(step.predicted_step_s, 1e3)} -> {1e3 * step.step_s:.1f}",
    )


def _expected(value: float | None, scale: float) -> str:
    return "?" if value is None else f"{scale * value:.1f}"
