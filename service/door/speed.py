"""How fast the workers of a model are, from the counters that they tell: what waits is weighed against it.

Two speeds: the present one, and the one they have with full hands, which alone says how soon a queue is worked off. The
second is measured while jobs wait; before that has happened, the speed with most sequences running stands for it, where
it was not with far fewer than now. While neither is known no wait is predicted.
"""

import math
from collections.abc import Mapping

# Counts that lie further apart than this say nothing of the present speed.
MAX_SAMPLE_S = 30.0
# What the newest sample counts for: workers tell their counts once a second, so single ones are off by one of these.
NEWEST_SHARE = 0.5


class Speed:
    """Tokens per second of all live workers together; 0 while unknown. tokens_per_answer is what answers had so far."""

    def __init__(self) -> None:
        self.tokens_per_s = self.full_tokens_per_s = 0.0
        self.tokens_per_answer = math.inf
        # Sequences that ran when the second was measured; infinite once it was while jobs waited.
        self._full_running = 0.0
        self._at_s, self._counts, self._had_waiting = -math.inf, dict[str, int](), False

    def saw(self, now_s: float, counts: Mapping[str, int], running: int = 0, *, has_waiting: bool = False) -> None:
        """Take what each worker has emitted since it started, the sequences that run, and whether any job waits."""
        passed_s = now_s - self._at_s
        if 0.0 < passed_s <= MAX_SAMPLE_S:
            made = sum(max(0, count - self._counts.get(worker, count)) for worker, count in counts.items())
            self.tokens_per_s = made / passed_s
            if has_waiting and self._had_waiting:
                self._full(self.tokens_per_s, math.inf)
            elif running >= self._full_running:
                self._full(self.tokens_per_s, running)
        self._at_s, self._counts, self._had_waiting = now_s, dict(counts), has_waiting

    def answers_had(self, num_tokens: int, num_answers: float) -> None:
        """Take how many tokens so many answers have had so far."""
        self.tokens_per_answer = num_tokens / num_answers if num_tokens and num_answers > 0 else math.inf

    def wait_s(self, num_ahead: int, most_tokens: float, num_running: int) -> float:
        """Return how long so many jobs take, of at most so many tokens each; 0 where that cannot be told."""
        if not self.full_tokens_per_s or 2 * self._full_running < num_running:
            return 0.0
        return num_ahead * min(most_tokens, self.tokens_per_answer) / self.full_tokens_per_s

    def _full(self, tokens_per_s: float, running: float) -> None:
        before = self.full_tokens_per_s if running <= 2 * self._full_running else tokens_per_s
        self.full_tokens_per_s = NEWEST_SHARE * tokens_per_s + (1.0 - NEWEST_SHARE) * before
        self._full_running = running
