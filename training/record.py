"""What a training run leaves behind: a CSV of its losses, a plot of them, and a progress bar with the time left."""

import csv
import json
import os
from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

mpl.use("Agg")


class LossRecord:
    """Rows of named numbers, appended to a CSV as they come; columns are fixed at birth.

    Rows for which the disk had no room are written with the next.
    """

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self._path, self._columns = path, columns
        self._waiting: list[list[str]] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text(",".join(columns) + "\n", encoding="utf-8")

    def add(self, values: Mapping[str, float]) -> None:
        """Append a row; a column without a value stays empty. Raises OSError naming the file."""
        self._waiting.append([f"{values[name]:.6g}" if name in values else "" for name in self._columns])
        try:
            size = self._path.stat().st_size
            try:
                with self._path.open("a", newline="", encoding="utf-8") as file:
                    csv.writer(file).writerows(self._waiting)
            except OSError:
                # Half a row would be read as numbers.
                os.truncate(self._path, size)
                raise
        except OSError as error:
            raise OSError(f"{self._path} cannot be written: {error}") from error
        self._waiting.clear()

    def plot(self, path: Path, x: str = "tokens") -> None:
        """Draw every other column over `x`."""
        with self._path.open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.add_subplot(xlabel=x, ylabel="loss")
        for name in self._columns:
            points = [
                (float(row[x]), float(row[name])) for row in rows if row[name] and name not in (x, "step", "seconds")
            ]
            if points:
                axes.plot(*zip(*points, strict=True), label=name, marker="." if len(points) < 40 else None)
        if axes.lines:
            axes.legend()
        axes.grid(alpha=0.3)
        figure.savefig(path, dpi=120)


def progress_bar() -> Progress:
    """Return a bar that shows a description, the share done, and the time spent and left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )


def write_json(path: Path, values: object) -> None:
    """Write numbers beside a run, for the report."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
