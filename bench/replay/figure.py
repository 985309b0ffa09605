"""The figure of a replay: speed against load, speed for all against speed for each, and how much is verified."""

from collections.abc import Mapping
from pathlib import Path

from bench.replay.findings import ADAPTIVE, OFF, Curve

try:
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter
except ImportError as error:
    raise ImportError("figures need matplotlib; install specd with its extra: pip install 'specd[bench]'") from error

# Okabe and Ito's palette; the rest of the fixed lengths would only crowd the picture.
STYLES = {
    OFF: ("#000000", "o"),
    "fixed:1": ("#56B4E9", "v"),
    "fixed:3": ("#0072B2", "^"),
    "fixed:7": ("#009E73", "s"),
    "confidence": ("#E69F00", "D"),
    "greedy literal": ("#999999", "x"),
    ADAPTIVE: ("#D55E00", "P"),
}
DPI = 130


def draw_replay(curves: Mapping[str, Mapping[str, Curve]], path: Path) -> None:
    """Write one row of three panels per machine."""
    figure, axes = plt.subplots(len(curves), 3, figsize=(14, 4.2 * len(curves)), layout="constrained", squeeze=False)
    for row, (machine, own) in zip(axes, curves.items(), strict=True):
        shown = {name: own[name] for name in STYLES if name in own}
        for name, curve in shown.items():
            colour, marker = STYLES[name]
            look = {"color": colour, "marker": marker, "markersize": 5, "label": name, "linewidth": 1.6}
            if OFF in own:
                ratio = [ours / plain for ours, plain in zip(curve.rates, own[OFF].rates, strict=True)]
                row[0].plot(curve.loads, ratio, **look)
            users = [rate / load for rate, load in zip(curve.rates, curve.loads, strict=True)]
            row[1].plot(users, curve.rates, **look)
            row[2].plot(curve.loads, curve.rows_per_round, **look)
        row[0].set(xscale="log", xlabel="sequences at once", ylabel="tokens/s over plain decoding")
        row[0].axhline(1.0, color="0.6", linewidth=0.8)
        row[0].set_title(f"{machine}: speed-up by load", fontsize=10)
        row[1].set(xscale="log", yscale="log", xlabel="tokens/s of one user", ylabel="tokens/s of all users")
        row[1].set_title("speed for all against speed for each", fontsize=10)
        row[2].set(xscale="log", xlabel="sequences at once", ylabel="rows per sequence and step (1 + l)")
        row[2].set_title("how much is verified", fontsize=10)
        for axis in (row[0], row[2]):
            loads = next(iter(own.values())).loads
            axis.set_xticks(loads, [str(load) for load in loads])
            axis.minorticks_off()
        for axis in (row[1].xaxis, row[1].yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(ScalarFormatter())
            axis.set_minor_formatter(NullFormatter())
        for axis in row:
            axis.grid(visible=True, color="0.92")
    handles, labels = axes[0][2].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle("modelled 8B target on one GPU, recorded acceptance, the real engine and policies", fontsize=9)
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
