"""A closed loop: so many clients, each of which sends its next request when its last one ended."""

import random
from collections.abc import Iterator
from typing import Protocol

from msgspec import Struct

from bench.prompt_pool import PromptPool, Question
from bench.window import Window


class Load(Struct, frozen=True):
    """One setting of the load: `concurrency` clients, sampling at `temperature`."""

    concurrency: int
    temperature: float

    @property
    def is_greedy(self) -> bool:
        """Greedy answers end where they begin to repeat themselves, or loops would flatter speculation."""
        return self.temperature == 0.0


class Questions:
    """The questions of one target under one load, in the same order for every target. Not thread-safe."""

    def __init__(self, pool: PromptPool, start: int, load: Load) -> None:
        self.num_asked = 0
        self._stream = pool.asked_from(start)
        self._concurrency = load.concurrency
        self._rng = random.Random(start)  # noqa: S311, a seed must give the same load
        self.begin()

    def begin(self) -> None:
        """Let all clients begin: their next answers are cut to lengths spread evenly, as if they had long been at it.

        Otherwise all would prefill together and, where answers are of one length and a step brings one token to each,
        go on in step for ever, as no server meets them.
        """
        shares = [(index + 1) / self._concurrency for index in range(self._concurrency)]
        self._rng.shuffle(shares)
        self._shares: Iterator[float] = iter(shares)

    def take(self) -> Question:
        """Return the next question to ask."""
        self.num_asked += 1
        question, share = next(self._stream), next(self._shares, 1.0)
        return Question(question.domain, question.text, max(1, round(share * question.max_tokens)))


class Target(Protocol):
    """What can be put under load: an engine in this process, or a server."""

    name: str

    def start(self, load: Load, questions: Questions) -> None:
        """Begin to serve a load; the questions are this target's own."""
        ...

    def measure(self, seconds: float) -> Window:
        """Serve for so long and return what happened."""
        ...

    def stop(self) -> None:
        """Drop what is in flight; the load is over."""
        ...
