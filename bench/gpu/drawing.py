"""The figures of a run on a GPU. What a dry run left is never drawn."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.figures import COLOURS, DPI, MARKERS, draw_figures
from bench.gpu.bars import curve_rows
from bench.gpu.results import StageResults
from core.errors import SpecdError

mpl.use("Agg")
SIZE = (8.0, 4.8)
# What a round is made of, from the bottom up.
ROUND_PARTS = ("verify_us", "backbone_us", "head_us", "unmarked_us")


def draw_all(results: dict[str, StageResults], folder: Path) -> list[Path]:
    """Draw what there are results for; returns the files. Raises SpecdError for results of a dry run."""
    if any(one.circumstances.is_dry_run for one in results.values()):
        raise SpecdError("a dry run measures nothing; there is nothing to draw")
    drawn = []
    for stage, draw in DRAWINGS.items():
        figure = draw(results[stage]) if stage in results else None
        if figure is not None:
            figure.suptitle(results[stage].circumstances.device, fontsize=9, color="0.35")
            drawn.append(folder / f"{stage}.png")
            figure.savefig(drawn[-1], dpi=DPI)
    if rows := curve_rows(results.get("curve")):
        drawn += draw_figures(rows, folder / "curve", results["curve"].circumstances.device)
    return drawn


def draw_kernels(stage: StageResults) -> Figure | None:
    """Draw which share of its time each kernel needed at least."""
    shares = {key: values["share_of_floor"] for key, values in done(stage).items() if "share_of_floor" in values}
    if not shares:
        return None
    figure = Figure(figsize=(SIZE[0], 1.2 + 0.2 * len(shares)), layout="constrained")
    axes = figure.add_subplot(xlabel="share of the roofline (1: as fast as copying or multiplying allows)", xlim=(0, 1))
    axes.barh(list(shares)[::-1], list(shares.values())[::-1], color=COLOURS[2])
    axes.axvline(0.75, color="0.5", linewidth=0.8, linestyle="--")
    axes.tick_params(axis="y", labelsize=7)
    return figure


def draw_steps(stage: StageResults) -> Figure | None:
    """Draw the milliseconds of a step over its rows, by model and kind of launch, and what reading weights takes."""
    lines: dict[str, list[tuple[int, float]]] = {}
    bounds: dict[str, float] = {}
    for key, values in done(stage).items():
        if "rows" in values:
            model, launch, _ = key.split("/", 2)
            line = f"{model}, {launch}, {values['context']} tokens of context"
            lines.setdefault(line, []).append((values["rows"], values["median_us"] / 1e3))
            bounds[model] = values["weights_us"] / 1e3
    if not lines:
        return None
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log", xlabel="rows of the step", ylabel="milliseconds")
    axes.set_xscale("log", base=2)
    for (label, points), colour, marker in zip(lines.items(), _cycle(COLOURS), _cycle(MARKERS), strict=False):
        axes.plot(*zip(*sorted(points), strict=True), label=label, color=colour, marker=marker)
    for model, bound in bounds.items():
        axes.axhline(bound, color="0.5", linewidth=0.8, linestyle="--")
        axes.annotate(f"weights of {model}", (1, bound), fontsize=8, color="0.4", va="bottom")
    axes.legend(fontsize=8, frameon=False)
    return figure


def draw_rounds(stage: StageResults) -> Figure | None:
    """Draw what part of a round each of its parts takes, by sequences."""
    rounds = sorted((values["sequences"], values) for values in done(stage).values() if "head_share" in values)
    if not rounds:
        return None
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot(xlabel="sequences", ylabel="share of a round", ylim=(0, 1))
    names = [str(sequences) for sequences, _ in rounds]
    bottom = [0.0] * len(rounds)
    for part, colour in zip(ROUND_PARTS, COLOURS[2:], strict=False):
        heights = [values[part] / values["round_marked_us"] for _, values in rounds]
        axes.bar(names, heights, 0.7, bottom=bottom, color=colour, label=part.removesuffix("_us"))
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    rest = [max(0.0, 1 - low) for low in bottom]
    axes.bar(names, rest, 0.7, bottom=bottom, color="0.8", label="other parts")
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    return figure


def done(stage: StageResults) -> dict[str, dict[str, Any]]:
    """Return the values of every measurement that succeeded, by key."""
    return {key: entry.values for key, entry in stage.entries.items() if entry.status == "done"}


def _cycle(names: Sequence[str]) -> list[str]:
    return [*names] * 4


DRAWINGS: dict[str, Callable[[StageResults], Figure | None]] = {
    "kernels": draw_kernels,
    "step": draw_steps,
    "round": draw_rounds,
}
