"""A request of a simulation, from its arrival to its end, as its client sees it."""

from dataclasses import dataclass
from functools import cache

from core.types import Request, Sampling

# Ids are all alike: nobody reads them.
TOKEN = 1


@dataclass(slots=True, eq=False)
class Job:
    """Mutated by the fleet only.

    text           which text of the acceptance it plays
    output_len     tokens after which its answer ends; max_tokens is what it asked for
    num_streamed   tokens that have reached the client, num_first of them with the first
    arrived_s, first_s, last_s, ended_s   when it came, when its first and its last tokens did, when it ended
    num_attempts   workers that have begun it
    """

    number: int
    text: int
    prompt_len: int
    output_len: int
    max_tokens: int
    arrived_s: float
    deadline_s: float | None = None
    num_streamed: int = 0
    num_first: int = 0
    first_s: float | None = None
    last_s: float | None = None
    ended_s: float | None = None
    num_attempts: int = 0

    @property
    def token_s(self) -> float | None:
        """Seconds per token after those that came first; None if none came later."""
        if self.first_s is None or self.last_s is None or self.last_s == self.first_s:
            return None
        return (self.last_s - self.first_s) / (self.num_streamed - self.num_first)

    def request(self) -> Request:
        """Return what a worker is asked for: what was streamed before counts as known."""
        sampling = Sampling(max_tokens=self.max_tokens, ignore_eos=True)
        tokens = tokens_of(self.num_streamed)
        return Request(
            str(self.number),
            tokens_of(self.prompt_len),
            sampling,
            self.number,
            output_ids=tokens,
            deadline_s=self.deadline_s,
        )


@cache
def tokens_of(length: int) -> tuple[int, ...]:
    """Return that many tokens."""
    return (TOKEN,) * length
