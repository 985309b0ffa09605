"""The reliability diagram: how often drafts survived against how often they were said to, before and after."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from msgspec import Struct

from core.planning import F32, I32, Calibration
from core.reliability import area_under_curve, calibration_error, equal_mass_bins
from policies.calibration_fit import survivals

mpl.use("Agg")

# Okabe and Ito's orange and blue: told apart by the colour-blind, and in grey by their markers.
BEFORE, AFTER = "#D55E00", "#0072B2"
STYLES = ((BEFORE, "o", "raw"), (AFTER, "D", "calibrated"))
COLUMNS = 4


class VerifiedRounds(Struct, frozen=True):
    """N rounds: evidence f32 [N, G], how many drafts were judged i32 [N], and how many of these were kept i32 [N]."""

    evidence: F32
    judged: I32
    accepted: I32


def draw_reliability(
    rounds: VerifiedRounds, raw: Calibration, fit: Calibration | None, path: Path, caption: str
) -> None:
    """Draw one panel per position, and one with the mean survivals, to a PNG; fit None draws the raw evidence only."""
    predicted = [survivals(rounds.evidence, each) for each in (raw, fit) if each is not None]
    width = rounds.evidence.shape[1]
    num_rows = -(-(width + 1) // COLUMNS)
    figure = Figure(figsize=(2.75 * COLUMNS, 2.85 * num_rows + 0.6), layout="constrained")
    axes = figure.subplots(num_rows, COLUMNS, squeeze=False).ravel()
    for k in range(width):
        judged = rounds.judged > k
        _panel(axes[k], [each[judged, k] for each in predicted], (rounds.accepted[judged] > k).astype(np.float64))
        axes[k].set_title("first draft" if k == 0 else f"first {k + 1} drafts", fontsize=10)
    for place, axis in enumerate(axes[:width]):
        if place % COLUMNS == 0:
            axis.set_ylabel("share accepted", fontsize=9)
        if place + COLUMNS >= width:
            axis.set_xlabel("predicted survival", fontsize=9)
    _means(axes[width], predicted, rounds)
    for axis in axes[width + 1 :]:
        axis.set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(caption, fontsize=9, color="0.35")
    figure.savefig(path, dpi=130)


def _panel(axis: Any, predicted: Sequence[Any], kept: Any) -> None:
    axis.plot((0, 1), (0, 1), color="0.75", linewidth=1, zorder=0)
    for line, (chance, (colour, marker, label)) in enumerate(zip(predicted, STYLES, strict=False)):
        if not len(kept):
            continue
        bins = equal_mass_bins(chance, kept)
        # Two standard errors, as if rounds were independent.
        half = 2 * np.sqrt(bins.observed * (1 - bins.observed) / bins.count)
        limits = np.minimum(half, bins.observed), np.minimum(half, 1 - bins.observed)
        axis.errorbar(
            bins.predicted, bins.observed, limits, fmt=marker, color=colour, ms=4, elinewidth=0.8,
            mfc="white" if marker == "o" else colour, label=f"{label}, 15 bins of equal mass",
        )  # fmt: skip
        text = f"ECE {100 * calibration_error(bins):.1f} %  AUC {area_under_curve(chance, kept):.2f}"
        axis.text(0.04, 1.0 - 0.09 * line, text, color=colour, fontsize=8, va="top", transform=axis.transAxes)
    axis.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.18), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1), aspect="equal")
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _means(axis: Any, predicted: Sequence[Any], rounds: VerifiedRounds) -> None:
    """Draw mean survival by position, predicted and observed, with the accepted lengths these add up to."""
    width = rounds.evidence.shape[1]
    places = np.arange(1, width + 1)
    judged = rounds.judged[:, None] >= places
    counts = np.maximum(judged.sum(0), 1)
    observed = (rounds.accepted[:, None] >= places).sum(0) / counts
    axis.plot(places, observed, color="black", linewidth=1, label="observed")
    lengths = [(f"observed {1 + observed.sum():.2f}", "black")]
    for chance, (colour, marker, label) in zip(predicted, STYLES, strict=False):
        means = np.where(judged, chance, 0.0).sum(0) / counts
        axis.plot(places, means, marker, color=colour, ms=4, mfc="white" if marker == "o" else colour)
        lengths.append((f"{label} {1 + means.sum():.2f}", colour))
    for line, (text, colour) in enumerate(lengths):
        axis.text(
            0.97, 1.0 - 0.09 * line, text, color=colour, fontsize=8, va="top", ha="right", transform=axis.transAxes
        )
    axis.set(xlabel="position", ylim=(0, 1.3), xticks=places, yticks=(0, 0.5, 1))
    axis.set_title("accepted length", fontsize=10)
    axis.xaxis.label.set_size(9)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
