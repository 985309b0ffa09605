"""The figures of a report: accepted length, conditional acceptance, the threshold sweep, acceptance by context.

Drawn from the report alone, so that a report can be drawn again: `python -m training.evaluation.figures report.json`.
Reliability needs the rounds themselves (training/reliability_diagram.py).
"""

import argparse
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import matplotlib as mpl
import msgspec
import numpy as np
from matplotlib.figure import Figure

from core.statistics import Interval
from training.evaluation.report import Cell, Report

mpl.use("Agg")

# Okabe and Ito's palette: told apart by the colour-blind, and in grey by their markers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKERS = ("o", "D", "s", "^", "v", "P", "X", "*")
PANELS_PER_ROW = 4
PANEL = 2.9
DPI = 130
# How far apart points at the same place stand, so that their limits do not hide each other.
ASIDE = 0.09
# A share of fewer rounds than this is no point worth drawing.
FEWEST = 10


def draw_figures(report: Report, folder: Path) -> list[Path]:
    """Write every figure that the report has numbers for; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for temperature in dict.fromkeys(cell.temperature for cell in report.cells):
        for name, draw in FIGURES.items():
            figure = draw(report, temperature)
            if figure is not None:
                path = folder / f"{name}_t{temperature:g}.png"
                figure.savefig(path, dpi=DPI)
                drawn.append(path)
    return drawn


def draw_length(report: Report, temperature: float) -> Any:
    """Draw accepted length by task as bars, a colour per drafter."""
    cells = _cells(report, temperature)
    tasks, drafters = _names(cell.task for cell in cells), list(report.drafters)
    figure = Figure(figsize=(max(5.0, 0.42 * len(tasks) * (len(drafters) + 1) + 1.6), 3.9), layout="constrained")
    axis = figure.add_subplot()
    width = 0.82 / len(drafters)
    for index, drafter in enumerate(drafters):
        for place, task in enumerate(tasks):
            length = next(c.acceptance.length for c in cells if (c.task, c.drafter) == (task, drafter))
            if length is None:
                continue
            at = place + (index - (len(drafters) - 1) / 2) * width
            axis.bar(at, length.estimate, 0.92 * width, color=COLOURS[index], label=drafter if not place else None)
            _limits(axis, at, length, "0.25")
            axis.annotate(
                f"{length.estimate:.2f}", (at, length.high), (0, 2), textcoords="offset points", ha="center", fontsize=8
            )
    axis.axhline(1.0, color="0.6", linewidth=0.8, linestyle=":")
    beside = axis.get_yaxis_transform()
    axis.text(1.01, 1.0, "no drafts", color="0.45", fontsize=7.5, va="center", transform=beside)
    axis.set_xticks(range(len(tasks)), tasks)
    axis.set_ylabel("tokens per round, bonus included")
    axis.margins(y=0.1)
    _finish(figure, axis, "accepted length, 95 % intervals over prompts", report, temperature)
    return figure


def draw_conditional(report: Report, temperature: float) -> Any:
    """Draw, a panel per task, how often a draft is kept whose predecessors were all kept."""
    cells = _cells(report, temperature)
    tasks = _names(cell.task for cell in cells)
    figure, axes = _panels(len(tasks))
    last = 1
    for place, (axis, task) in enumerate(zip(axes, tasks, strict=False)):
        for index, drafter in enumerate(report.drafters):
            own = next(c.acceptance for c in cells if (c.task, c.drafter) == (task, drafter))
            places = zip(count(1), own.conditional, own.reached)
            known = [(k, each) for k, each, reached in places if each is not None and reached >= FEWEST]
            _line(axis, known, index, drafter, len(report.drafters))
            last = max([last, *(k for k, _ in known)])
        axis.set(ylim=(-0.03, 1.05), yticks=np.linspace(0, 1, 6))
        axis.set_title(task, fontsize=10)
        _outer(axes, place, "position in the block", "kept, given that all before were")
    for axis in axes:
        axis.set(xlim=(0.6, last + 0.4), xticks=range(1, last + 1))
    _finish(figure, axes[0], "conditional acceptance by position, 95 % intervals over prompts", report, temperature)
    return figure


def draw_sweep(report: Report, temperature: float) -> Any:
    """Draw, a row per drafter, the share of verified tokens kept over the threshold, and what accepted length costs."""
    points = [each for each in report.sweep if each.temperature == temperature]
    if not points:
        return None
    drafters, tasks = _names(each.drafter for each in points), _names(each.task for each in points)
    figure = Figure(figsize=(9.4, 3.1 * len(drafters) + 0.9), layout="constrained")
    grid = figure.subplots(len(drafters), 2, squeeze=False)
    for row, drafter in enumerate(drafters):
        left, right = grid[row]
        for index, task in enumerate(tasks):
            own = sorted((p for p in points if (p.drafter, p.task) == (drafter, task)), key=lambda p: p.threshold)
            style = {"color": COLOURS[index], "marker": MARKERS[index], "ms": 4, "lw": 1.2}
            left.plot([p.threshold for p in own], [100 * p.share for p in own], label=task, **style)
            across = [1 + p.verified for p in own]
            lengths = [p.length.estimate for p in own]
            limits = [[p.length.estimate - p.length.low for p in own], [p.length.high - p.length.estimate for p in own]]
            right.errorbar(across, lengths, limits, elinewidth=0.7, **style)
        left.set_ylabel("verified tokens kept, %")
        left.set_title(f"{drafter}: what verification is spent on", fontsize=10)
        right.set_ylabel("accepted length, tokens")
        right.set_title(f"{drafter}: what it yields", fontsize=10)
        widest, longest = (
            max(values)
            for values in zip(*((1 + p.verified, p.length.high) for p in points if p.drafter == drafter), strict=True)
        )
        end = min(widest, longest)
        right.plot([1, end], [1, end], color="0.7", lw=0.8, ls=":", zorder=0)
        right.annotate(
            "all kept", (end, end), (-4, 0), textcoords="offset points", color="0.5", fontsize=7.5, ha="right",
            va="center",
        )  # fmt: skip
        right.set(xlim=(0.9, 1.04 * widest), ylim=(0.9, 1.06 * longest))
        left.set_ylim(0, 104)
    grid[-1][0].set_xlabel("confidence threshold")
    grid[-1][1].set_xlabel("tokens verified per round, anchor included")
    for axis in grid.ravel():
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.tick_params(labelsize=8)
        for label in (axis.xaxis.label, axis.yaxis.label):
            label.set_size(9)
    _finish(figure, grid[0][0], "threshold sweep", report, temperature)
    return figure


def draw_context(report: Report, temperature: float) -> Any:
    """Draw accepted length over the tokens of context before the round."""
    cells = [each for each in report.contexts if each.temperature == temperature]
    if not cells:
        return None
    spans, tasks = sorted({(each.low, each.high) for each in cells}), _names(each.task for each in cells)
    drafters = _names(each.drafter for each in cells)
    figure, axes = _panels(len(tasks))
    for place, (axis, task) in enumerate(zip(axes, tasks, strict=False)):
        for index, drafter in enumerate(drafters):
            own = [(spans.index((c.low, c.high)), c.length) for c in cells if (c.task, c.drafter) == (task, drafter)]
            _line(axis, own, index, drafter, len(drafters))
        axis.set_xticks(range(len(spans)), [f"{low}-{high - 1}" for low, high in spans], rotation=30, ha="right")
        axis.set_title(task, fontsize=10)
        axis.set_ylim(bottom=0)
        _outer(axes, place, f"tokens before the round (limit {report.max_model_len})", "tokens per round")
    _finish(figure, axes[0], "accepted length by context, 95 % intervals over prompts", report, temperature)
    return figure


FIGURES: dict[str, Callable[[Report, float], Any]] = {
    "accepted_length": draw_length,
    "conditional_acceptance": draw_conditional,
    "threshold_sweep": draw_sweep,
    "context": draw_context,
}


def _cells(report: Report, temperature: float) -> list[Cell]:
    return [cell for cell in report.cells if cell.temperature == temperature]


def _names(found: Any) -> list[str]:
    return list(dict.fromkeys(found))


def _panels(number: int) -> tuple[Any, list[Any]]:
    """Return a figure and its panels, in rows as even as they get."""
    rows = -(-number // PANELS_PER_ROW)
    columns = -(-number // rows)
    figure = Figure(figsize=(max(4.6, PANEL * columns + 0.4), PANEL * rows + 0.9), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axis in axes[number:]:
        axis.set_visible(False)
    return figure, list(axes[:number])


def _line(axis: Any, points: Sequence[tuple[int, Interval]], index: int, label: str, number: int) -> None:
    aside = ASIDE * (index - (number - 1) / 2)
    axis.errorbar(
        [at + aside for at, _ in points],
        [each.estimate for _, each in points],
        [[each.estimate - each.low for _, each in points], [each.high - each.estimate for _, each in points]],
        color=COLOURS[index], marker=MARKERS[index], ms=4, lw=1.2, elinewidth=0.8, capsize=1.5, label=label,
    )  # fmt: skip
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def _limits(axis: Any, at: float, interval: Interval, colour: str) -> None:
    half = [[interval.estimate - interval.low], [interval.high - interval.estimate]]
    axis.errorbar(at, interval.estimate, half, color=colour, elinewidth=0.9, capsize=1.5)


def _outer(axes: Sequence[Any], place: int, x: str, y: str) -> None:
    """Label a panel where no other one does."""
    axis, columns = axes[place], axes[place].get_gridspec().ncols
    axis.tick_params(labelsize=8)
    if place % columns == 0:
        axis.set_ylabel(y, fontsize=9)
    if place + columns >= len(axes):
        axis.set_xlabel(x, fontsize=9)


def _finish(figure: Any, axis: Any, title: str, report: Report, temperature: float) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6), frameon=False, fontsize=9)
    figure.suptitle(f"{report.target}, temperature {temperature:g}: {title}", fontsize=9.5, color="0.25")


def main() -> None:
    """Draw the figures of a report again."""
    parser = argparse.ArgumentParser(description="Draw the figures of an evaluation's report.json again.")
    parser.add_argument("report", type=Path)
    path = parser.parse_args().report
    for drawn in draw_figures(msgspec.json.decode(path.read_bytes(), type=Report), path.parent):
        print(drawn)


if __name__ == "__main__":
    main()
