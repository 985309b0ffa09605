"""The figures of the long runs: how long jobs stood still, and what the service held on to over time."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import pyplot as plt

from tests.faults.footprint import Sample

DPI = 130
COLOURS = {"kill": "#D55E00", "freeze": "#0072B2", "redis": "#999999"}
WORDS = {"kill": "worker killed", "freeze": "worker frozen", "redis": "Redis killed"}


def draw_recoveries(seconds: dict[str, list[float]], lease_s: float, bar_s: float, path: Path) -> None:
    """Draw the time from a fault to a job's next token, by fault."""
    figure, axis = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    kinds = [kind for kind in seconds if seconds[kind]]
    values, colours = [seconds[kind] for kind in kinds], [COLOURS[kind] for kind in kinds]
    labels = [f"{WORDS[kind]} ({len(seconds[kind])} jobs)" for kind in kinds]
    if kinds:
        axis.hist(values, bins=40, stacked=True, color=colours, label=labels)
        axis.legend(frameon=False, fontsize=9, loc="center right")
    for at_s, words in ((lease_s, "lease"), (bar_s, "bar")):
        axis.axvline(at_s, color="black", linestyle="--", linewidth=0.8)
        axis.annotate(words, (at_s, 0.98), xycoords=("data", "axes fraction"), ha="right", va="top", rotation=90)
    axis.set_xlim(left=0)
    axis.set_xlabel("seconds until the next token of a job that was running")
    axis.set_ylabel("jobs")
    axis.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def draw_samples(samples: Sequence[Sample], path: Path) -> None:
    """Draw every value over time."""
    names = list(samples[0].values)
    figure, axes = plt.subplots(2, (len(names) + 1) // 2, figsize=(13, 5), layout="constrained", squeeze=False)
    minutes = [one.at_s / 60 for one in samples]
    for axis, name in zip(axes.flat, names, strict=False):
        axis.plot(minutes, [one.values[name] for one in samples], color="#0072B2", linewidth=0.9)
        axis.set_title(name.replace("_", " ").replace(" mib", ", MiB"), fontsize=10)
        axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel("minutes")
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    _save(figure, path)


def _save(figure: object, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
