"""Take steps of a chosen shape with an idle engine, and read the clock: what a profile is made of."""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from msgspec import Struct

from core.errors import EngineError
from core.planning import FixedLength, Plan, StepOutcome, StepView
from core.types import Request, Sampling
from engine.engine import Engine
from policies.base import draft_all, draft_nothing

# The first step of a new shape pays for its set-up and is not counted; then this many, or fewer if they take long.
MOST_STEPS, ENOUGH_S = 4, 0.04


class Script:
    """A policy that does as it is told: verify `length` drafts of every sequence; None decodes plainly."""

    name = "profile"

    def __init__(self) -> None:
        self.length: int | None = None

    def plan(self, view: StepView) -> Plan:
        """Draft everything and verify `length` of it, or do nothing at all."""
        return draft_nothing(view) if self.length is None else draft_all(view, FixedLength(self.length))

    def observe(self, outcome: StepOutcome) -> None:
        """Learn nothing."""


class StepTime(Struct, frozen=True):
    """Seconds of a step, drafting and all the rest of it, with the drafts it verified per sequence."""

    draft_s: float
    rest_s: float
    verified: float


class TimedSteps:
    """Runs batches of requests of its own, with random prompts, under a salt that nobody else has.

    is_coupled     they are verified as requests with a seed are
    num_sequences  how many requests the batch at hand has
    chunks         (rows, seconds) of every step that prefilled
    """

    def __init__(self, engine: Engine, script: Script, *, is_coupled: bool = False) -> None:
        self._engine, self._script, self._is_coupled = engine, script, is_coupled
        self._salt, self._num_requests = secrets.token_hex(16), 0
        self._random = np.random.default_rng(0)
        self.num_sequences = 0
        self.chunks: list[tuple[int, float]] = []

    @contextmanager
    def batch(self, num_sequences: int, prompt_len: int, answer_len: int) -> Iterator[None]:
        """Have that many requests past their prompts, with up-to-date drafters; they are gone afterwards."""
        vocab_size = self._engine.target.shape.vocab_size
        sampling = Sampling(max_tokens=answer_len, ignore_eos=True)
        names = []
        for _ in range(num_sequences):
            self._num_requests += 1
            names.append(f"profile-{self._salt}-{self._num_requests}")
            prompt = tuple(self._random.integers(vocab_size, size=prompt_len).tolist())
            nonce, key = secrets.randbits(64), secrets.randbits(64) if self._is_coupled else None
            request = Request(names[-1], prompt, sampling, nonce, coupled_key=key, cache_salt=self._salt)
            self._engine.add(request)
        self.num_sequences, self._script.length = num_sequences, 0
        try:
            self._prefill(set(names))
            yield
        finally:
            for name in names:
                self._engine.abort(name)

    def time(self, length: int | None) -> StepTime:
        """Return the quickest of a few steps that verify `length` drafts of every sequence, None: plain ones."""
        self._script.length = length
        self._step()
        before, spent = self._engine.stats.verified, 0.0
        times: list[tuple[float, float]] = []
        while len(times) < MOST_STEPS and (spent < ENOUGH_S or not times):
            times.append(self._step())
            spent += sum(times[-1])
        verified = (self._engine.stats.verified - before) / (len(times) * self.num_sequences)
        draft_s, rest_s = np.array(times).min(axis=0).tolist()
        return StepTime(draft_s, rest_s, verified)

    def catch_up(self, num_steps: int) -> tuple[int, float]:
        """Leave the drafter behind for that many steps, then catch up; returns (rows, seconds) of that one step."""
        self._script.length = None
        for _ in range(num_steps):
            self._step()
        sequences = self._engine.scheduler.running
        num_stale = sum(sequence.num_stale for sequence in sequences)
        self._script.length = 0
        seconds = sum(self._step())
        # Rows of this step's own are followed at once, those that are still stale did not fit.
        return num_stale - sum(sequence.num_stale for sequence in sequences), seconds

    def _prefill(self, names: set[str]) -> None:
        """Step until every request has got its first token."""
        scheduler = self._engine.scheduler
        while names:
            started = time.perf_counter()
            waiting = {s.request.id: s.num_uncomputed for s in (*scheduler.running, *scheduler.waiting)}
            names -= {emission.request_id for emission in self._engine.step()}
            seconds = time.perf_counter() - started
            left = {s.request.id: s.num_uncomputed for s in (*scheduler.running, *scheduler.waiting)}
            rows = sum(max(0, waiting[name] - left[name]) for name in left)
            if rows > 1:
                self.chunks.append((rows, seconds))

    def _step(self) -> tuple[float, float]:
        """Take a step; returns the seconds of drafting and of the rest. Raises EngineError if a request ended."""
        stats = self._engine.stats
        drafted_s, started = stats.seconds["draft"], time.perf_counter()
        self._engine.step()
        whole_s = time.perf_counter() - started
        if len(self._engine.scheduler.running) != self.num_sequences:
            raise EngineError(
                f"{self.num_sequences} sequences were to be profiled, but some ended or lost their blocks"
            )
        draft_s = stats.seconds["draft"] - drafted_s
        return draft_s, whole_s - draft_s
