"""What a live engine tells of its steps."""

import time
from types import SimpleNamespace

import pytest

from bench.simulate.live import LiveLoop
from bench.window import Window

THOUGHT_S, REST_S = 0.02, 0.01


class Thinking:
    """An engine of one sequence whose policy takes most of its steps."""

    def __init__(self):
        self.stats = SimpleNamespace(step_tokens=SimpleNamespace(total=0), emitted=0, steps=0, seconds={"plan": 0.0})
        self.scheduler = SimpleNamespace(running=[SimpleNamespace(num_computed=10)])
        self.recent = SimpleNamespace(newest=lambda: None)

    def step(self):
        time.sleep(THOUGHT_S + REST_S)
        self.stats.seconds["plan"] += THOUGHT_S
        self.stats.step_tokens.total += 1
        self.stats.emitted += 1
        self.stats.steps += 1
        return [SimpleNamespace(request_id="0", token_ids=[1], finish_reason=None)]


def test_what_a_policy_takes_is_told_apart_from_what_the_rest_of_a_step_does():
    loop = LiveLoop(Thinking(), [], 1.0)
    loop._answers["0"] = SimpleNamespace(arrive=lambda *told: None)
    for _ in range(3):
        loop._step(Window())
    assert loop.plan_s == pytest.approx([THOUGHT_S] * 3)
    # A machine at other work may take longer, but half of a step is what the rest never takes.
    assert min(step.seconds for step in loop.seen) < THOUGHT_S
    assert all(step.seconds >= REST_S for step in loop.seen)
