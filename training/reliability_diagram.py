"""The reliability diagram: how often drafts survived against how often they were said to, before and after."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from core.reliability import calibration_error, equal_mass_bins
from core.types import Calibration
from policies.calibration_fit import survivals
from training.full_rounds import RecordedRounds

mpl.use("Agg")

# Okabe and Ito's orange and blue: told apart by the colour-blind, and in grey by their markers.
BEFORE, AFTER = "#D55E00", "#0072B2"
COLUMNS = 4


def draw_reliability(rounds: RecordedRounds, raw: Calibration, fit: Calibration, path: Path, caption: str) -> None:
    """Draw one panel per position, and one with the mean survivals, to a PNG."""
    before, after = survivals(rounds.evidence, raw), survivals(rounds.evidence, fit)
    width = before.shape[1]
    num_rows = -(-(width + 1) // COLUMNS)
    figure = Figure(figsize=(2.75 * COLUMNS, 2.85 * num_rows + 0.6), layout="constrained")
    axes = figure.subplots(num_rows, COLUMNS, squeeze=False).ravel()
    for k in range(width):
        _panel(axes[k], before[:, k], after[:, k], (rounds.accepted > k).astype(np.float64))
        axes[k].set_title("first draft" if k == 0 else f"first {k + 1} drafts", fontsize=10)
    for place, axis in enumerate(axes[:width]):
        if place % COLUMNS == 0:
            axis.set_ylabel("share accepted", fontsize=9)
        if place + COLUMNS >= width:
            axis.set_xlabel("predicted survival", fontsize=9)
    _means(axes[width], before, after, rounds.accepted)
    for axis in axes[width + 1 :]:
        axis.set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(caption, fontsize=9, color="0.35")
    figure.savefig(path, dpi=130)


def _panel(axis: Any, before: Any, after: Any, kept: Any) -> None:
    axis.plot((0, 1), (0, 1), color="0.75", linewidth=1, zorder=0)
    notes = []
    for predicted, colour, marker, label in ((before, BEFORE, "o", "raw"), (after, AFTER, "D", "calibrated")):
        bins = equal_mass_bins(predicted, kept)
        # Two standard errors, as if rounds were independent.
        half = 2 * np.sqrt(bins.observed * (1 - bins.observed) / bins.count)
        axis.errorbar(
            bins.predicted, bins.observed, half, fmt=marker, color=colour, ms=4, elinewidth=0.8,
            mfc="white" if marker == "o" else colour, label=f"{label}, 15 bins of equal mass",
        )  # fmt: skip
        notes.append((f"ECE {100 * calibration_error(bins):.1f} %", colour))
    for line, (text, colour) in enumerate(notes):
        axis.text(0.05, 0.93 - 0.1 * line, text, color=colour, fontsize=9, va="top", transform=axis.transAxes)
    axis.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1), aspect="equal")
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _means(axis: Any, before: Any, after: Any, accepted: Any) -> None:
    """Draw mean survival by position, predicted and observed, with the accepted lengths these add up to."""
    places = np.arange(1, before.shape[1] + 1)
    observed = (accepted[:, None] >= places).mean(0)
    axis.plot(places, observed, color="black", linewidth=1, label="observed")
    axis.plot(places, before.mean(0), "o", color=BEFORE, ms=4, mfc="white")
    axis.plot(places, after.mean(0), "D", color=AFTER, ms=4)
    lengths = (
        (f"observed {1 + observed.sum():.2f}", "black"),
        (f"raw {1 + before.mean(0).sum():.2f}", BEFORE),
        (f"calibrated {1 + after.mean(0).sum():.2f}", AFTER),
    )
    for line, (text, colour) in enumerate(lengths):
        axis.text(
            0.97, 0.95 - 0.1 * line, text, color=colour, fontsize=9, va="top", ha="right", transform=axis.transAxes
        )
    axis.set(xlabel="position", ylim=(0, 1), xticks=places)
    axis.set_title("accepted length", fontsize=10)
    axis.xaxis.label.set_size(9)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
