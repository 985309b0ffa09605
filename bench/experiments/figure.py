"""The picture of an experiment: how the ratio to the control, and what is known of it, went from block to block."""

import math
from collections.abc import Sequence
from pathlib import Path

from core.experiments.analysis import compare
from core.experiments.blocks import make_blocks
from core.experiments.spec import Experiment
from core.experiments.unit_sums import UnitRecord

try:
    from matplotlib import pyplot as plt
except ImportError as error:
    raise ImportError("figures need matplotlib; install specd with its extra: pip install 'specd[bench]'") from error

# Okabe and Ito's palette.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
MOST_POINTS = 200


def draw_experiment(experiment: Experiment, records: Sequence[UnitRecord], path: Path) -> None:
    """Draw the confidence sequence of every arm's primary metric."""
    blocks = make_blocks(experiment, records)
    pre, main = [one for one in blocks if one.is_pre], [one for one in blocks if not one.is_pre]
    alpha = experiment.stop.alpha / len(experiment.treatments)
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    stride = max(1, len(main) // MOST_POINTS)
    for arm, colour in zip(experiment.treatments, COLOURS, strict=False):
        ends = range(stride, len(main) + 1, stride)
        looks = [compare(experiment, [*pre, *main[:n]], arm, experiment.primary, alpha) for n in ends]
        # Of blocks that are there, the newest may not count yet.
        known = {look.num_blocks: look.ratio for look in looks if look is not None and math.isfinite(look.ratio.high)}
        if known:
            lows, highs = [ratio.low for ratio in known.values()], [ratio.high for ratio in known.values()]
            axes.plot(list(known), [ratio.estimate for ratio in known.values()], color=colour, label=arm)
            axes.fill_between(list(known), lows, highs, color=colour, alpha=0.2, linewidth=0)
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.axvline(experiment.stop.min_blocks, color="grey", linewidth=0.8, linestyle=":")
    axes.set_xlabel("blocks")
    axes.set_ylabel(f"{experiment.primary}, ratio to {experiment.control_arm}")
    axes.set_title(f"{experiment.id}: {1 - experiment.stop.alpha:.0%} at all times together")
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
