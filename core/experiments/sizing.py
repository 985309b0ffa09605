"""How long an experiment takes: blocks until an effect is found, by how blocks vary."""

import math

from core.confidence_sequence import evidence_of_sums, mixture_scale

# Of the experiments with such an effect, this share has found it by then; so many standard deviations below the mean.
POWER = 0.8
BELOW = 0.8416
MOST_BLOCKS = 1_000_000


def blocks_needed(effect: float, spread: float, usual: int, alpha: float = 0.05) -> int | None:
    """Return after how many blocks four of five experiments have found an effect; None for more than a million.

    effect  log ratio of the arm to the control
    spread  standard deviation of the blocks' log ratios
    usual   stop.min_blocks, for which the interval is made narrowest
    """
    if not effect or spread <= 0:
        return None if not effect else usual
    scale, enough = mixture_scale(usual, spread**2, alpha), math.log(1 / alpha)

    def finds(num_blocks: int) -> bool:
        total = num_blocks * abs(effect) - BELOW * spread * math.sqrt(num_blocks)
        squares = num_blocks * (spread**2 + effect**2)
        return total > 0 and evidence_of_sums(total, squares, scale) >= enough

    if not finds(MOST_BLOCKS):
        return None
    low, high = 0, MOST_BLOCKS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if finds(middle) else (middle, high)
    return max(high, usual)
