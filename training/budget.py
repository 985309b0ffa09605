"""How much training may cost, in seconds and tokens, and where in the learning-rate schedule that puts a step."""

import msgspec

UNLIMITED = 2**62


class Budget(msgspec.Struct, frozen=True):
    """Training ends at whichever limit comes first."""

    seconds: float
    tokens: int = UNLIMITED

    def progress(self, elapsed_s: float, tokens: int) -> float:
        """Return 0..1, the share of the budget that is spent."""
        return min(1.0, max(elapsed_s / self.seconds, tokens / self.tokens))


def learning_rate_scale(progress: float, *, warm_up: float = 0.02, hold_until: float = 0.3) -> float:
    """Scale in 0..1: linear warm-up, then constant, then linear decay to zero at the end of the budget."""
    if progress < warm_up:
        return max(0.02, progress / warm_up)
    return min(1.0, (1.0 - progress) / (1.0 - hold_until))
