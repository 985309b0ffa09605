"""`specd demo`: three questions, answered with and without speculation, side by side.

Two servers run on the same weights: one with the shipped drafter and policy, one with no drafter loaded. Every question
goes to both in turn, while the other one idles, so that both see the same machine.
"""

import argparse
from statistics import median

from msgspec import Struct
from rich.console import Console
from rich.table import Table

from cli.complete import ask
from cli.display import Tally, show_answer, show_summary
from cli.local_server import local_server

QUESTIONS = {
    "math": "Hugo buys 37 apples for 3 dollars each. How many dollars does Hugo pay?",
    "code": (
        "Write a Python function `last_from_9(values)` that returns the last number that is at least 9, or None.\n\n"
        ">>> last_from_9([13, 17, 20])\n20"
    ),
    "chat": "Would you come cycling in the city with me when it is warm?",
}
SPECULATING = ("--target", "demo", "--drafter", "dspark", "--policy", "load_adaptive")
PLAIN = ("--target", "demo", "--drafter", "none", "--policy", "off")
MAX_TOKENS = 160
PARTED = (
    "Greedy texts part where the target's two best tokens are as good as equal: a row alone and rows of a draft round "
    'differently in bfloat16. With engine.numerics = "batch_invariant" they never do (docs/exactness.md).'
)
# Silent repetitions after the answer that is shown, so that drawing on the terminal is in nobody's time.
ROUNDS = 3


class Pair(Struct, frozen=True):
    """The answers to one question, with and without speculation, one of each per round."""

    speculating: list[Tally]
    plain: list[Tally]
    same_text: bool


def run(arguments: argparse.Namespace) -> int:  # noqa: ARG001
    """Start both servers, ask, print the table, and stop everything that was started."""
    console = Console()
    with local_server(*SPECULATING) as speculating:
        # The first measures what steps cost while it starts, so the second waits with starting.
        speculating.wait_until_ready()
        with local_server(*PLAIN) as plain:
            plain.wait_until_ready()
            for server in (speculating, plain):
                show_answer(_silent(), ask(server.url, "Hello.", max_tokens=8))
            console.print("Accepted drafts are green; what the target itself wrote is plain.\n", highlight=False)
            urls = (speculating.url, plain.url)
            pairs = {domain: _compare(console, domain, question, urls) for domain, question in QUESTIONS.items()}
    console.print(_table(pairs))
    if not all(pair.same_text for pair in pairs.values()):
        console.print(PARTED)
    return 0


def _compare(console: Console, domain: str, question: str, urls: tuple[str, str]) -> Pair:
    """Show one answer of the speculating server, then time both servers by turns."""
    console.rule(domain)
    console.print(question, style="bold", markup=False, highlight=False)
    console.print()
    _, shown = show_answer(console, ask(urls[0], question, max_tokens=MAX_TOKENS))
    show_summary(console, shown)
    tallies: tuple[list[Tally], list[Tally]] = ([], [])
    texts = set()
    for _ in range(ROUNDS):
        for url, kept in zip(urls, tallies, strict=True):
            text, tally = show_answer(_silent(), ask(url, question, max_tokens=MAX_TOKENS))
            kept.append(tally)
            texts.add(text)
    return Pair(*tallies, same_text=len(texts) == 1)


def _table(pairs: dict[str, Pair]) -> Table:
    table = Table(title=f"tokens/s at one request, median of {ROUNDS}, greedy")
    for heading in ("", "with", "without", "ratio", "accepted length", "verify length", "same text"):
        table.add_column(heading, justify="right" if heading else "left")
    for domain, pair in pairs.items():
        fast, slow = (median(tally.tokens_per_s for tally in side) for side in (pair.speculating, pair.plain))
        shown = pair.speculating[0]
        table.add_row(
            domain,
            f"{fast:.0f}",
            f"{slow:.0f}",
            f"{fast / slow:.2f}x" if slow else "-",
            f"{shown.accepted_len:.2f}",
            f"{shown.verify_len:.2f}",
            "yes" if pair.same_text else "no",
        )
    return table


def _silent() -> Console:
    return Console(quiet=True)
