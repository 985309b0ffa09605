"""The figures of a load run: speed for all against speed for each, lengths against load, where a step's time goes.

python -m bench.figures bench/results/load.json     # draw the figures of a report again
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bench.summary import Row
from core.statistics import Interval

try:
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, ScalarFormatter
except ImportError as error:
    raise ImportError("figures need matplotlib; install specd with its extra: pip install 'specd[bench]'") from error

# Okabe and Ito's palette: told apart by the colour-blind, and in grey by their markers.
COLOURS = ("#000000", "#56B4E9", "#0072B2", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#F0E442")
MARKERS = ("o", "v", "^", "s", "D", "P", "X", "*")
# The parts of a step from the bottom up, in the order in which they run; parts that are not named here come on top.
PARTS = {
    "schedule": "#999999",
    "plan": "#000000",
    "noise": "#F0E442",
    "draft": "#E69F00",
    "admit": "#CC79A7",
    "verify": "#0072B2",
    "accept": "#56B4E9",
    "commit": "#009E73",
}
OTHER_PART = "#D55E00"
HEIGHT, WIDTH = 4.4, 5.2
DPI = 130


def draw_figures(rows: Sequence[Row], stem: Path, caption: str) -> list[Path]:
    """Write the figures of every temperature beside `stem` and return their paths."""
    paths = []
    for temperature in dict.fromkeys(row.temperature for row in rows):
        own = [row for row in rows if row.temperature == temperature]
        words = f"{caption}, temperature {temperature:g}"
        end = f"_t{temperature:g}.png"
        for name, draw in (("speed", draw_speed), ("lengths", draw_lengths), ("step", draw_step)):
            figure = draw(own)
            if figure is None:
                continue
            figure.suptitle(words, fontsize=9, color="0.35")
            path = stem.with_name(f"{stem.name}_{name}{end}")
            figure.savefig(path, dpi=DPI)
            plt.close(figure)
            paths.append(path)
    return paths


def draw_speed(rows: Sequence[Row]) -> Any:
    """Draw throughput against per-user speed, and the ratio to the baseline against load."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(2 * WIDTH, HEIGHT), layout="constrained")
    styles = _styles(rows)
    for index, (mode, colour, marker) in enumerate(styles):
        own = _of(rows, mode)
        across = [row.tokens_per_s_per_user for row in own]
        left.plot(across, [row.tokens_per_s.estimate for row in own], color=colour, marker=marker, label=mode)
        compared = [(row.concurrency, row.ratio) for row in own if row.ratio is not None]
        if compared:
            # Side by side, so that limits do not hide each other.
            aside = 2 ** (0.07 * (index - (len(styles) - 1) / 2))
            _with_limits(right, [at * aside for at, _ in compared], [ratio for _, ratio in compared], colour, marker)
    left.set(xscale="log", yscale="log", xlabel="tokens/s of one user", ylabel="tokens/s of all users")
    left.set_title("speed for all against speed for each", fontsize=10)
    _load_lines(left, rows)
    for axis in (left.xaxis, left.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_locator(NullLocator())
    _load_axis(right, rows)
    right.set_ylabel("tokens/s, ratio to off")
    right.set_title("ratio in the same round, 95 % intervals", fontsize=10)
    _legend(figure, left)
    return figure


def draw_lengths(rows: Sequence[Row]) -> Any:
    """Draw verify length and accepted length against load; None where nobody counted them."""
    counted = [row for row in rows if row.accepted_length is not None]
    if not counted:
        return None
    figure, axes = plt.subplots(1, 2, figsize=(2 * WIDTH, HEIGHT), layout="constrained")
    shown: tuple[tuple[str, Callable[[Row], float | None]], ...] = (
        ("verify length: drafts sent to the target", lambda row: row.verify_length),
        ("accepted length: tokens per round, bonus included", lambda row: row.accepted_length),
    )
    for axis, (label, value) in zip(axes, shown, strict=True):
        for mode, colour, marker in _styles(rows):
            own = _of(counted, mode)
            axis.plot(
                [row.concurrency for row in own], [value(row) for row in own], color=colour, marker=marker, label=mode
            )
        _load_axis(axis, rows)
        axis.set_title(label, fontsize=10)
        axis.set_ylabel("tokens per sequence and step")
        axis.set_ylim(bottom=0)
    _legend(figure, axes[0])
    return figure


def draw_step(rows: Sequence[Row]) -> Any:
    """Draw the parts of a step, stacked, one panel per load; None where steps were not timed."""
    timed = [row for row in rows if row.part_ms]
    if not timed:
        return None
    loads = sorted({row.concurrency for row in timed})
    found = {part for row in timed for part in row.part_ms}
    parts = [part for part in PARTS if part in found] + sorted(found - PARTS.keys())
    figure, axes = plt.subplots(
        1, len(loads), figsize=(1.4 + 2.6 * len(loads), HEIGHT), layout="constrained", squeeze=False
    )
    for axis, load in zip(axes[0], loads, strict=True):
        own = [row for row in timed if row.concurrency == load]
        places, bottom = np.arange(len(own)), np.zeros(len(own))
        for part in parts:
            height = np.array([row.part_ms.get(part, 0.0) for row in own])
            axis.bar(
                places,
                height,
                0.75,
                bottom=bottom,
                color=PARTS.get(part, OTHER_PART),
                edgecolor="white",
                linewidth=0.4,
                label=part,
            )
            bottom += height
        axis.set_xticks(places, [row.mode for row in own], rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
        axis.set_title(f"{load} at once", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("milliseconds per step")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside right center", frameon=False, fontsize=9)
    return figure


def _styles(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    modes = list(dict.fromkeys(row.mode for row in rows))
    return [(mode, COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]) for index, mode in enumerate(modes)]


def _of(rows: Sequence[Row], mode: str) -> list[Row]:
    return sorted((row for row in rows if row.mode == mode), key=lambda row: row.concurrency)


def _with_limits(axis: Any, loads: list[float], ratios: list[Interval], colour: str, marker: str) -> None:
    middle = [ratio.estimate for ratio in ratios]
    limits = [[r.estimate - r.low for r in ratios], [r.high - r.estimate for r in ratios]]
    axis.errorbar(loads, middle, yerr=np.maximum(limits, 0), color=colour, marker=marker, capsize=3)


def _load_lines(axis: Any, rows: Sequence[Row]) -> None:
    """Mark where all users together get `load` times what one gets: there lie the points of that load."""
    (left, right), (low, high) = axis.get_xlim(), axis.get_ylim()
    across = np.geomspace(left, right, 200)
    for load in sorted({row.concurrency for row in rows}):
        axis.plot(across, load * across, color="0.85", linewidth=0.8, zorder=0)
        inside = across[load * across < high]
        if len(inside):
            end = inside[-1]
            axis.annotate(f"{load} at once", (end, load * end), fontsize=8, color="0.4", ha="right", va="top")
    axis.set_xlim(left, right)
    axis.set_ylim(low, high)


def _load_axis(axis: Any, rows: Sequence[Row]) -> None:
    loads = sorted({row.concurrency for row in rows})
    axis.set_xscale("log", base=2)
    axis.set_xticks(loads, [str(load) for load in loads])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("requests at once")
    axis.grid(axis="y", color="0.9")
    axis.spines[["top", "right"]].set_visible(False)


def _legend(figure: Any, axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=8, frameon=False, fontsize=9)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Draw the figures of a load report again.")
    parser.add_argument("report", type=Path, help="JSON that specd bench wrote")
    path = parser.parse_args().report
    report = json.loads(path.read_text(encoding="utf-8"))
    for drawn in draw_figures(msgspec.convert(report["rows"], list[Row]), path.with_suffix(""), report["caption"]):
        print(drawn)


if __name__ == "__main__":
    main()
