"""What `specd data generate` shows while it works: a live line on a terminal, else a plain one now and then."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from training.data.generate import Progress as Generated

LIVE_S = 0.5
PLAIN_S = 10.0


@contextmanager
def shown(progress: Generated, console: Console) -> Iterator[None]:
    """Show `progress` for as long as the block lasts, from a thread of its own."""
    ended = threading.Event()
    thread = threading.Thread(
        target=_show_live if console.is_terminal else _show_plain, args=(progress, console, ended)
    )
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def line_of(progress: Generated, started_s: float) -> str:
    """Return the plain line."""
    done = progress.num_before + progress.num_answered + progress.num_refused
    rate = progress.num_tokens / max(time.monotonic() - started_s, 1e-9)
    more = f", {progress.num_refused} refused" if progress.num_refused else ""
    return f"{done}/{progress.num_wanted} records, {rate:.0f} tokens/s, {progress.num_retries} retries{more}"


def _show_plain(progress: Generated, console: Console, ended: threading.Event) -> None:
    started_s = time.monotonic()
    while not ended.wait(PLAIN_S):
        console.print(line_of(progress, started_s))


def _show_live(progress: Generated, console: Console, ended: threading.Event) -> None:
    started_s = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        line = bar.add_task("reading", total=None)
        while not ended.wait(LIVE_S):
            if progress.num_wanted:
                done = progress.num_before + progress.num_answered + progress.num_refused
                told = line_of(progress, started_s).partition(", ")[2]
                bar.update(line, description=told, completed=done, total=progress.num_wanted)
