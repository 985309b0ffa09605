"""What all stages share: the command line, the clock, and results that outlive whatever ends the process.

A stage asks its `Bench` to take measurements by name. What an earlier run has is not taken again; what fails is
written down with its reason, and the stage goes on.
"""

import argparse
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from bench.gpu.device import describe, find_device, let_go, wait_for
from bench.gpu.results import Entry, Status, open_results, write_results
from bench.gpu.timing import Stopwatch
from bench.logs import show_warnings_only
from core.errors import SpecdError

DONE, WRONG, UNFINISHED, STOPPED = 0, 2, 3, 143
SHOWN_VALUES = 4


class NotAvailable(SpecdError):
    """This version, or this machine, has not got what a measurement needs; the message says what."""


class Stopped(Exception):
    """A signal asked the process to end."""


class DeviceLost(SpecdError):
    """The device answers no more; only a new process can use it again."""


class Bench:
    """One run of one stage; `seconds` is how long it may go on beginning measurements."""

    def __init__(self, stage: str, output: Path, seconds: float, *, is_dry_run: bool) -> None:
        self.output, self.is_dry_run = output, is_dry_run
        self.device = find_device(is_dry_run=is_dry_run)
        if is_dry_run:
            # Nothing there is large enough for a second thread.
            torch.set_num_threads(1)
        self.watch = Stopwatch(self.device)
        self.results = open_results(output, stage, describe(self.device, is_dry_run=is_dry_run))
        self._ends = time.monotonic() + seconds
        # Set by a signal: what it raises is lost where Python can only print it, in a callback or a finaliser.
        self.is_stopped = False
        self.results.left.clear()
        self.results.commands.append(f"{datetime.now(UTC).isoformat(timespec='seconds')} {' '.join(sys.argv)}")

    @property
    def seconds_left(self) -> float:
        """Seconds in which measurements may still begin."""
        return self._ends - time.monotonic()

    def wants(self, *keys: str) -> bool:
        """Tell whether one of these is still to be measured, and note those for which there is no time any more."""
        open_keys = [key for key in keys if self.results.done(key) is None]
        if open_keys and self.seconds_left <= 0:
            self.results.left += [key for key in open_keys if key not in self.results.left]
            return False
        return bool(open_keys)

    def stop(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - what signal handlers are given
        """End the measurement that runs, and take no other."""
        self.is_stopped = True
        raise Stopped

    def take(self, key: str, measure: Callable[[], dict[str, Any]]) -> None:
        """Take a measurement, unless there is one or no time is left, and write it down at once.

        Raises DeviceLost if the device answers no more, and Stopped on a signal; both after writing.
        """
        if not self.wants(key):
            return
        if self.is_stopped:
            raise Stopped
        started = time.monotonic()
        status, values, reason = self._attempt(measure)
        seconds = round(time.monotonic() - started, 2)
        self.results.entries[key] = Entry(status, values, reason, seconds)
        write_results(self.output, self.results)
        shown = [f"{name} {value:.4g}" for name, value in values.items() if isinstance(value, float)]
        told = "a dry run, which measures nothing" if self.is_dry_run else ", ".join(shown[:SHOWN_VALUES])
        print(f"  {key}: {status}; {reason or told} ({seconds} s)", flush=True)
        if status == "failed":
            self._check_device()

    def note_all(self, keys: list[str], reason: str) -> None:
        """Write down that none of these can be measured here, and why."""
        for key in keys:
            if self.results.done(key) is None:
                self.results.entries[key] = Entry("not available", reason=reason)
        write_results(self.output, self.results)

    def _attempt(self, measure: Callable[[], dict[str, Any]]) -> tuple[Status, dict[str, Any], str]:
        try:
            return "done", measure(), ""
        except Stopped:
            raise
        except NotAvailable as error:
            return "not available", {}, str(error)
        except torch.OutOfMemoryError as error:
            reason = f"out of memory: {str(error).splitlines()[0]}"
        except Exception as error:  # noqa: BLE001 - one measurement that fails must not cost the others
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        # What the failed measurement held is let go of before the next one asks for memory.
        let_go(self.device)
        return "failed", {}, reason

    def _check_device(self) -> None:
        try:
            wait_for(self.device)
        except RuntimeError as error:
            raise DeviceLost(f"the device answers no more ({error}); run the stage again to go on") from error


def run_stage(stage: str, measure: Callable[[Bench], None]) -> int:
    """Read the command line and run one stage in this process; returns the exit status.

    0: everything is measured or known not to be available; 3: a rerun has something left to do; 143: a signal ended it.
    """
    parser = argparse.ArgumentParser(description=f"The stage {stage!r} of bench.gpu; see python -m bench.gpu --help.")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=420.0)
    parser.add_argument("--dry-run", action="store_true")
    arguments = parser.parse_args()
    show_warnings_only()
    try:
        bench = Bench(stage, arguments.output, arguments.seconds, is_dry_run=arguments.dry_run)
        signal.signal(signal.SIGTERM, bench.stop)
        return work(bench, measure)
    except SpecdError as error:
        print(f"bench.gpu: {error}", file=sys.stderr)
        return WRONG


def work(bench: Bench, measure: Callable[[Bench], None]) -> int:
    """Run a stage's measurements and write down what there is, however they end; returns the exit status."""
    status = UNFINISHED
    try:
        measure(bench)
        finished = DONE if bench.results.is_complete else UNFINISHED
        status = STOPPED if bench.is_stopped else finished
    except (Stopped, KeyboardInterrupt):
        status = STOPPED
    except DeviceLost as error:
        print(f"bench.gpu: {error}", file=sys.stderr)
    finally:
        write_results(bench.output, bench.results)
    return status
