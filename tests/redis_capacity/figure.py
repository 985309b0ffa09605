"""The figure of what Redis carries: its share of a core against tokens per second, and where the time goes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.figures import COLOURS, DPI, HEIGHT, MARKERS, WIDTH

try:
    from matplotlib import pyplot as plt
except ImportError as error:
    raise ImportError("figures need matplotlib; install specd with its extra: pip install 'specd[bench]'") from error


# Commands that clients send, by what they are for; what scripts call in turn is in `evalsha`.
PARTS = {
    "workers' scripts": ("evalsha",),
    "gateways' reads": ("xread",),
    "looks at the queue": ("xrange", "xinfo", "xlen", "info"),
}


def draw(cases: Sequence[Any], path: Path) -> None:
    """Write the figure; cases are those of the measurement."""
    figure, (load, parts) = plt.subplots(1, 2, figsize=(2 * WIDTH, HEIGHT), layout="constrained")
    for index, workers in enumerate(dict.fromkeys(case.workers for case in cases)):
        own = sorted((case for case in cases if case.workers == workers), key=lambda case: case.tokens)
        x, y = [case.tokens for case in own], [100 * case.redis_share for case in own]
        word = "worker" if workers == 1 else "workers"
        load.plot(x, y, MARKERS[index], color=COLOURS[index], label=f"{workers} {word}", linestyle="-")
    load.set(xlabel="tokens/s", ylabel="% of a core that Redis takes", xlim=(0, None), ylim=(0, None))
    load.legend(frameon=False)
    names = [f"{case.workers}x{case.sequences}\n{case.step_ms:g} ms" for case in cases]
    bottom = [0.0] * len(cases)
    for index, (name, commands) in enumerate(PARTS.items()):
        heights = [
            sum(case.commands_us.get(command, 0.0) for command in commands) / max(1.0, case.chunks) for case in cases
        ]
        parts.bar(names, heights, bottom=bottom, color=COLOURS[index + 1], label=name)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    parts.legend(frameon=False)
    parts.set(ylim=(0, 1.35 * max(bottom)))
    parts.set(ylabel="microseconds for each chunk, by Redis's count", xlabel="workers x jobs each, step")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
