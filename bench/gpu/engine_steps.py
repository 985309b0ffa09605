"""Engines around random weights, and the times of their steps, as whoever calls `step` waits for them."""

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bench.gpu.device import free_bytes, wait_for
from bench.gpu.random_pair import RandomTarget
from bench.gpu.stage import NotAvailable
from core.errors import SpecdError
from drafters.base import Drafter
from engine.engine import Engine
from engine.graph_sizes import graph_sizes
from engine.shape import EngineShape
from engine.timed_steps import Script, TimedSteps
from policies.fixed import Off

WARM_UP_STEPS, TIMED_STEPS = 4, 30
DRY_STEPS = 2
PREFILL_ROWS = 8192
BLOCK_SIZE = 16
# Beside the cache a step needs room for its own tensors, logits above all.
SHARE_FOR_KV = 0.8
MOST_SEQUENCES = 512


class SteppedEngine:
    """An engine with one drafter whose every step is scripted; `room` is how many tokens its cache holds.

    graphs  of the target's forward and the drafter's proposals; each is captured while a batch warms up
    """

    def __init__(
        self, target: RandomTarget, drafter: Drafter, device: torch.device, most_tokens: int, *, graphs: bool
    ) -> None:
        self.device, self.script, self.target = device, Script(), target
        per_token = target.kv_bytes_per_token + sum(
            2 * heads * size * target.network.dtype.itemsize for heads, size in drafter.spec.kv_layers
        )
        self.room = min(most_tokens, int(SHARE_FOR_KV * free_bytes(device)) // per_token)
        shape = EngineShape(
            max_num_seqs=MOST_SEQUENCES,
            max_num_batched_tokens=PREFILL_ROWS,
            kv_cache_tokens=self.room,
            block_size=BLOCK_SIZE,
            prefix_cache=False,
            graph_sizes=graph_sizes(MOST_SEQUENCES) if graphs else (),
        )
        self.engine = Engine(target.network, {drafter.spec.name: drafter}, {Off.name: Off}, shape, ())
        if device.type == "cuda" and not self.engine.memory.kv.keys[0].is_cuda:
            raise NotAvailable("this engine keeps its keys and values on the CPU; it cannot step on a CUDA device")

    @property
    def num_steps(self) -> int:
        """Timed steps of a measurement."""
        return TIMED_STEPS if self.device.type == "cuda" else DRY_STEPS

    @contextmanager
    def batch(self, num_sequences: int, context: int, length: int | None) -> Iterator[None]:
        """Have sequences with so many tokens of context decode, `length` drafts of each verified in every step.

        None decodes plainly. Raises NotAvailable if the cache has no room for them.
        """
        width = self.engine.memory.width
        answer_len = (self.num_steps + WARM_UP_STEPS + 4) * (1 + (length or 0)) + width + 2
        need = num_sequences * (context + answer_len + width + BLOCK_SIZE)
        if need > self.room:
            raise NotAvailable(f"{need} tokens of keys and values are needed, the device has room for {self.room}")
        if context + answer_len + width > self.engine.max_model_len:
            raise NotAvailable(f"{context} tokens of context are more than the model has positions for")
        failures = self.engine.stats.fallbacks["drafter"]
        with self.engine.scripted(self.script):
            steps = TimedSteps(self.engine, self.script)
            with steps.batch(num_sequences, context, answer_len):
                self.script.length = length
                for _ in range(WARM_UP_STEPS):
                    self.engine.step()
                yield
        if self.engine.stats.fallbacks["drafter"] > failures:
            raise SpecdError("the drafter failed while its steps were timed")

    def time(self, num_sequences: int) -> list[float]:
        """Return the seconds of steps that follow each other, from one return to the next; inside a batch.

        Raises SpecdError if sequences ended meanwhile, which would have made the steps cheaper.
        """
        wait_for(self.device)
        times = [time.perf_counter()]
        for _ in range(self.num_steps):
            self.engine.step()
            times.append(time.perf_counter())
        wait_for(self.device)
        if len(self.engine.scheduler.running) != num_sequences:
            raise SpecdError(f"{num_sequences} sequences were to be stepped, {len(self.engine.scheduler.running)} are")
        return [after - before for before, after in itertools.pairwise(times)]
