"""The learning rate over a run: a linear warm-up, then half a cosine down to zero (DeepSpec's schedule)."""

import math


def warm_up_cosine(progress: float, warm_up: float) -> float:
    """Scale in 0..1 of a step that begins after `progress` 0..1 of the run."""
    if progress < warm_up:
        return progress / warm_up
    return 0.5 * (1.0 + math.cos(math.pi * (progress - warm_up) / max(1e-12, 1.0 - warm_up)))
