"""The picture of what experiments find: the share of them that has found a planted effect, by blocks."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.experiments.figure import COLOURS
from bench.experiments.trials import Power

try:
    from matplotlib import pyplot as plt
except ImportError as error:
    raise ImportError("figures need matplotlib; install specd with its extra: pip install 'specd[bench]'") from error

LINES = (":", "--", "-")


def draw_power(found: Mapping[str, Mapping[str, Sequence[Power]]], path: Path) -> None:
    """Draw one panel per traffic: colours are effects, line styles what covariates took out."""
    figure, axes = plt.subplots(1, len(found), figsize=(6 * len(found), 4.9), layout="constrained", squeeze=False)
    for axis, (traffic, by_covariates) in zip(axes[0], found.items(), strict=True):
        for line, (covariates, powers) in zip(LINES, by_covariates.items(), strict=False):
            for colour, power in zip(COLOURS, powers, strict=False):
                label = f"{power.effect - 1:.0%}, {covariates}"
                axis.plot(list(power.found), list(power.found.values()), line, color=colour, label=label)
        axis.axhline(0.8, color="0.6", linewidth=0.8)
        axis.set(xlabel="blocks of comparison", ylabel="share of experiments that found it", ylim=(-0.02, 1.02))
        axis.set_title(traffic, fontsize=10)
        axis.grid(visible=True, color="0.92")
    # The last panel has whatever others have.
    handles, labels = axes[0][-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    figure.suptitle("modelled machine, planted effects, looked at after every block", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
