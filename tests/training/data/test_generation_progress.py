"""Who watches a run learns how far it is, on a terminal and in a file."""

import io
import time

from rich.console import Console

from training.data import generation_progress
from training.data.generate import Progress
from training.data.generation_progress import line_of, shown


def test_a_line_tells_what_is_done_of_what_is_wanted():
    progress = Progress(num_wanted=10, num_before=2, num_answered=3, num_refused=1, num_tokens=500, num_retries=4)
    assert line_of(progress, time.monotonic() - 10) == "6/10 records, 50 tokens/s, 4 retries, 1 refused"


def test_without_a_terminal_plain_lines_come_now_and_then(monkeypatch):
    monkeypatch.setattr(generation_progress, "PLAIN_S", 0.01)
    written = io.StringIO()
    with shown(Progress(num_wanted=10, num_answered=3), Console(file=written)):
        deadline = time.monotonic() + 10
        while not written.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
    assert written.getvalue().startswith("3/10 records")


def test_on_a_terminal_a_bar_shows_the_same(monkeypatch):
    monkeypatch.setattr(generation_progress, "LIVE_S", 0.01)
    written = io.StringIO()
    with shown(Progress(num_wanted=10, num_answered=3), Console(file=written, force_terminal=True, width=120)):
        deadline = time.monotonic() + 10
        while "3/10" not in written.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
    assert "3/10" in written.getvalue()
