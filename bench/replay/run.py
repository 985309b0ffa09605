"""Requests of a recording through the real engine, so many at a time, under one policy and a virtual clock."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from bench.replay.clock import ModelledMachine, ReplayClock
from bench.replay.pair import MOST_REQUESTS, PROMPT_LEN, ReplayDrafter, ReplayTarget, prompt_of, token_at
from bench.replay.recording import Recording
from core.errors import ConfigError
from core.planning import Policy
from core.types import Request, Sampling
from engine.engine import Engine
from engine.shape import EngineShape

DRAFTER, POLICY = "replay", "replayed"
# First requests start this far apart in their texts: arrivals are not in step.
STAGGER, STAGGER_RANGE = 37, 200


@dataclass(slots=True)
class Tally:
    """What happened in some stretch of a run: seconds by machine, and sums over rounds of one sequence each."""

    seconds: list[float]
    rounds: int = 0
    tokens: int = 0
    verified: int = 0
    steps: int = 0

    def rate(self, machine: int = 0) -> float:
        """Return tokens per second."""
        return self.tokens / self.seconds[machine]

    @property
    def rows_per_round(self) -> float:
        """Target rows per sequence and step: the anchor and the drafts verified."""
        return 1 + self.verified / self.rounds


@dataclass(slots=True)
class ReplayRun:
    """An engine, its clock and its requests; `load` may be changed between steps, up to `most`.

    Policies see the costs of the first machine. Without a drafter the engine decodes plainly.
    """

    recording: Recording
    machines: tuple[ModelledMachine, ...]
    policy: Callable[[], Policy]
    load: int
    has_drafter: bool = True
    most: int = 0
    first_request: int = 0
    num_sent: int = field(default=0, init=False)
    clock: ReplayClock = field(init=False)
    engine: Engine = field(init=False)

    def __post_init__(self) -> None:
        if len(self.recording.accepted) > MOST_REQUESTS:
            raise ConfigError(f"a replay takes at most {MOST_REQUESTS} requests, got {len(self.recording.accepted)}")
        self.most = max(self.most, self.load)
        self.clock = ReplayClock(self.machines)
        longest = PROMPT_LEN + self.recording.length
        shape = EngineShape(
            max_num_seqs=self.most,
            max_num_batched_tokens=8192,
            kv_cache_tokens=self.most * (longest + 32),
            prefix_cache=False,
        )
        target = ReplayTarget(self.clock, longest)
        drafter = ReplayDrafter(self.recording, self.clock) if self.has_drafter else None
        policies = {POLICY: self.policy}
        self.engine = Engine(target, {DRAFTER: drafter}, policies, shape, (), clock=self.clock)
        self.engine.costs[DRAFTER] = self.machines[0].table()

    def step(self, tally: Tally) -> None:
        """Fill up to the load, take one step, and add what it brought."""
        while self.num_running < self.load:
            self._send()
        stats, before = self.engine.stats, list(self.clock.now_s)
        rounds, verified, emitted = stats.rounds, stats.verified, stats.emitted
        self.clock.num_sequences = self.num_running
        self.engine.step()
        tally.steps += 1
        tally.rounds += stats.rounds - rounds
        tally.verified += stats.verified - verified
        tally.tokens += stats.emitted - emitted
        tally.seconds = [
            total + now - then for total, now, then in zip(tally.seconds, self.clock.now_s, before, strict=True)
        ]

    def measure(self, num_rounds: int) -> Tally:
        """Take steps until so many rounds were judged."""
        tally = Tally([0.0] * len(self.machines))
        while tally.rounds < num_rounds:
            self.step(tally)
        return tally

    @property
    def num_running(self) -> int:
        """Requests that are being answered."""
        scheduler = self.engine.scheduler
        return len(scheduler.running) + len(scheduler.waiting)

    def _send(self) -> None:
        """Send the next request; the first ones have part of their text behind them."""
        index = self.num_sent
        started = (index * STAGGER) % STAGGER_RANGE if index < self.load else 0
        text = token_at(torch.arange(PROMPT_LEN, PROMPT_LEN + started)).tolist()
        sampling = Sampling(max_tokens=self.recording.length, temperature=0.0)
        prompt = prompt_of((self.first_request + index) % len(self.recording.accepted))
        self.engine.add(Request(str(index), prompt, sampling, nonce=index, output_ids=tuple(text)))
        self.num_sent += 1
