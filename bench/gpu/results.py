"""What a stage has measured so far: one JSON file, written anew, whole, after every measurement."""

from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from core.errors import SpecdError

Status = Literal["done", "failed", "not available"]


class Entry(Struct, frozen=True):
    """One measurement: its values, or the reason why there are none; `seconds` is what taking it took."""

    status: Status
    values: dict[str, Any] = {}
    reason: str = ""
    seconds: float = 0.0


class Circumstances(Struct, frozen=True):
    """Where and with what was measured; results of others are never mixed with these.

    is_dry_run  the smallest shapes on the CPU: such numbers say nothing of a GPU
    """

    device: str
    machine: str
    versions: dict[str, str]
    is_dry_run: bool


class StageResults(Struct):
    """All that is known of one stage; mutable: `put` adds to it.

    commands  the command lines that have worked on it, with when they began
    left      what the last run wanted to measure and had no time for
    """

    stage: str
    circumstances: Circumstances
    commands: list[str] = []
    entries: dict[str, Entry] = {}
    left: list[str] = []

    @property
    def is_complete(self) -> bool:
        """Tell whether nothing is left that a rerun could still measure; what failed may also be tried again."""
        return not self.left and all(entry.status != "failed" for entry in self.entries.values())

    def done(self, key: str) -> dict[str, Any] | None:
        """Return the values of a measurement that succeeded, None for others."""
        entry = self.entries.get(key)
        return entry.values if entry is not None and entry.status == "done" else None


def results_path(folder: Path, stage: str) -> Path:
    """Return where a stage's results are."""
    return folder / f"{stage}.json"


def read_results(folder: Path, stage: str) -> StageResults | None:
    """Return a stage's results, None if there are none; raises SpecdError for a file that holds something else."""
    path = results_path(folder, stage)
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=StageResults)
    except msgspec.DecodeError as error:
        raise SpecdError(f"{path} does not hold results of a stage: {error}; move it away") from error


def write_results(folder: Path, results: StageResults) -> None:
    """Replace a stage's file, so that a reader or a killed writer never leaves half of one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = results_path(folder, results.stage)
    partial = path.with_suffix(".partial")
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    partial.replace(path)


def open_results(folder: Path, stage: str, circumstances: Circumstances) -> StageResults:
    """Return what earlier runs of a stage have left, or empty results.

    Raises SpecdError if they were measured elsewhere, or in a dry run where this is none.
    """
    found = read_results(folder, stage)
    if found is None:
        return StageResults(stage, circumstances)
    theirs, ours = found.circumstances, circumstances
    if (theirs.device, theirs.is_dry_run) != (ours.device, ours.is_dry_run):
        kind = "a dry run" if theirs.is_dry_run else theirs.device
        raise SpecdError(
            f"{results_path(folder, stage)} was measured on {kind}, this is "
            f"{'a dry run' if ours.is_dry_run else ours.device}; give another --output"
        )
    if theirs.versions != ours.versions:
        raise SpecdError(
            f"{results_path(folder, stage)} was measured with {theirs.versions}, here are {ours.versions}; "
            "give another --output"
        )
    return found
