"""The figure of a simulation: speed for all against speed for each, lengths, waiting and use against load.

The first two panels have the shapes of the DSpark paper's figures 7 and 8.
"""

from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from bench.simulate.measure import Outcome
from bench.simulate.report import LOADS, loads_of

try:
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullFormatter
except ImportError as error:
    raise ImportError("figures need matplotlib; install specd with its extra: pip install 'specd[bench]'") from error

# Okabe and Ito's palette.
COLOURS = ("#000000", "#56B4E9", "#0072B2", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#999999")
MARKERS = ("o", "v", "^", "s", "D", "P", "X", "*")
DPI = 130


def draw(outcomes: Sequence[Outcome], kind: str, path: Path, caption: str) -> None:
    """Write the figure of all cases; what did not happen in a case is left out of its curve."""
    figure, axes = plt.subplots(2, 3, figsize=(15, 8.4), layout="constrained")
    looks = dict(zip(dict.fromkeys(one.policy for one in outcomes), cycle(zip(COLOURS, MARKERS, strict=True))))
    for policy, (colour, marker) in looks.items():
        own = sorted((one for one in outcomes if one.policy == policy), key=lambda one: one.load)
        told = [one for one in own if one.tokens_per_s_per_user is not None]
        users = [one.tokens_per_s_per_user for one in told]
        look = {"color": colour, "marker": marker, "markersize": 5, "linewidth": 1.6}
        axes[0][0].plot(users, [one.tokens_per_s for one in told], label=policy, **look)
    axes[0][0].set(xlabel="tokens/s of one user", ylabel="tokens/s of all users", ylim=(0, None))
    axes[0][0].set_title("speed for all against speed for each", fontsize=10)
    panels: tuple[tuple[Any, str, str, Callable[[Outcome], float | None]], ...] = (
        (axes[0][1], "how much is verified", "rows per sequence and step (1 + l)", lambda one: 1 + one.verify_length),
        (axes[0][2], "how much is accepted", "tokens per sequence and step", lambda one: one.accepted_length),
        (axes[1][0], "first token, 95th percentile", "ms", lambda one: ms(one.first_token_s)),
        (axes[1][1], "per token of an answer, 95th percentile", "ms", lambda one: ms(one.token_s)),
        (axes[1][2], "workers' time in steps", "share", lambda one: one.utilisation),
    )
    for axis, title, label, value in panels:
        for policy, (colour, marker) in looks.items():
            own = sorted((one for one in outcomes if one.policy == policy), key=lambda one: one.load)
            points = [(one.load, found) for one in own if (found := value(one)) is not None]
            axis.plot(*zip(*points) if points else ([], []), color=colour, marker=marker, markersize=5, linewidth=1.6)
        axis.set(xscale="log", xlabel=LOADS[kind], ylabel=label, ylim=(0, None))
        axis.set_xticks(loads_of(outcomes), [f"{load:g}" for load in loads_of(outcomes)])
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_title(title, fontsize=10)
    for axis in axes.flat:
        axis.grid(visible=True, color="0.92")
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(caption, fontsize=9)
    figure.savefig(path, dpi=DPI)
    plt.close(figure)


def ms(seconds: tuple[float, float, float] | None) -> float | None:
    """Return a 95th percentile in milliseconds."""
    return None if seconds is None else 1000 * seconds[1]
