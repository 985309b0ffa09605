"""What one way to decode did in one stretch of time, as its clients saw it and as the engine counted it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from bench.loops import LoopWatch


@dataclass(slots=True)
class Window:
    """Totals of a stretch of measured time; filled while it lasts.

    tokens         tokens that clients received, less what an answer said after it began to repeat itself
    first_token_s  from sending to the first token, per answer whose first token came in this window
    gaps_s         between two arrivals of one answer; gap_tokens is how many tokens came at the ends of these gaps
    rounds, verified, accepted   rounds of verification of one sequence each, drafts checked in them, drafts kept
    drafted, steps, part_s       drafts proposed, engine steps, their seconds by part; None and empty over HTTP
    """

    seconds: float = 0.0
    tokens: int = 0
    first_token_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)
    gap_tokens: int = 0
    rounds: int = 0
    verified: int = 0
    accepted: int = 0
    drafted: int | None = None
    steps: int | None = None
    part_s: dict[str, float] = field(default_factory=dict)

    @property
    def tokens_per_s(self) -> float:
        """Tokens of all clients per second."""
        return self.tokens / self.seconds

    @property
    def tokens_per_s_per_user(self) -> float:
        """How fast an answer grows once it has begun, averaged over its tokens; nan if none grew."""
        return self.gap_tokens / sum(self.gaps_s) if self.gaps_s else float("nan")


class Answer:
    """One request in flight, as its client sees it; `ends_at_loop` is for greedy answers, which may never end."""

    def __init__(self, sent_s: float, *, ends_at_loop: bool) -> None:
        self.sent_s = sent_s
        self.last_s: float | None = None
        self.loops = LoopWatch() if ends_at_loop else None

    def arrive(self, window: Window, now_s: float, num_tokens: int) -> None:
        """Count tokens that arrived now."""
        if self.last_s is None:
            window.first_token_s.append(now_s - self.sent_s)
        else:
            window.gaps_s.append(now_s - self.last_s)
            window.gap_tokens += num_tokens
        window.tokens += num_tokens
        self.last_s = now_s

    def loops_now(self, window: Window, token_ids: Sequence[int]) -> bool:
        """Tell whether the answer repeats itself with these tokens; if so, the repetition is taken out again."""
        if self.loops is None:
            return False
        start = self.loops.add(token_ids)
        if start is None:
            return False
        window.tokens -= self.loops.num_tokens - start
        return True


def merge(windows: Iterable[Window], seconds: float) -> Window:
    """Return the sum of what clients saw side by side in the same `seconds`."""
    total = Window(seconds)
    for one in windows:
        total.tokens += one.tokens
        total.first_token_s += one.first_token_s
        total.gaps_s += one.gaps_s
        total.gap_tokens += one.gap_tokens
        total.rounds += one.rounds
        total.verified += one.verified
        total.accepted += one.accepted
    return total
