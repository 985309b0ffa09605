"""The simulated engine beside the real one: the same requests, drafts and modelled clock, step for step the same."""

import numpy as np
import pytest

from bench.replay.clock import ModelledMachine
from bench.replay.pair import PROMPT_LEN
from bench.replay.recording import read_recording
from bench.replay.run import STAGGER, STAGGER_RANGE, ReplayRun, Tally
from bench.simulate.drafts import Texts
from bench.simulate.engine import SimulatedEngine
from bench.simulate.job import Job
from bench.simulate.machine import Machine, ModelledPricing
from bench.simulate.settings import Costs, Shape
from bench.simulate.virtual_time import VirtualTime
from policies.confidence import Confidence
from policies.fixed import Fixed, Off
from policies.goodput import Goodput
from policies.greedy import Greedy
from policies.load_adaptive import LoadAdaptive

LOAD, STEPS = 6, 120


def recorded():
    shown = read_recording()
    size, length = shown.accepted.shape
    lengths, prompts = np.full(size, length, np.int32), np.zeros(size, np.int32)
    return Texts(shown.accepted.astype(np.int32), shown.evidence, lengths, prompts, {"all": np.arange(size)})


def real_steps(machine, policy, has_drafter):
    """Return (seconds, tokens, verified) of each step of the real engine on the modelled clock."""
    run = ReplayRun(read_recording(), (ModelledMachine(machine),), policy, LOAD, has_drafter)
    tallies = []
    for _ in range(STEPS):
        tally = Tally([0.0])
        run.step(tally)
        tallies.append((tally.seconds[0], tally.tokens, tally.verified))
    return tallies


def simulated_steps(machine, policy, has_drafter):
    """Return the same of the simulated engine, with the same requests in the same order."""
    texts = recorded()
    length = int(texts.lengths[0])
    pricing = ModelledPricing(ModelledMachine(machine), 1.0)
    shape = Shape(max_num_seqs=LOAD, kv_cache_tokens=LOAD * (PROMPT_LEN + length + 32))
    drafts = texts if has_drafter else None
    simulated = SimulatedEngine(shape, policy(), drafts, Machine(pricing, Costs(), 0), VirtualTime())
    steps, num_sent = [], 0
    for _ in range(STEPS):
        while len(simulated.jobs) < LOAD:
            job = Job(num_sent, num_sent % len(texts.lengths), PROMPT_LEN, length, length, 0.0)
            job.num_streamed = (num_sent * STAGGER) % STAGGER_RANGE if num_sent < LOAD else 0
            simulated.add(job)
            num_sent += 1
        done = simulated.step()
        steps.append((done.seconds, sum(one.num_tokens for one in done.answered), done.work.num_verified))
    return steps


@pytest.mark.parametrize("machine", ["smooth", "staircase"])
@pytest.mark.parametrize(
    "policy",
    [lambda: Fixed(3), lambda: Confidence(0.3), Goodput, Greedy, LoadAdaptive],
    ids=["fixed", "confidence", "goodput", "greedy", "load_adaptive"],
)
def test_simulated_steps_are_those_of_the_real_engine(machine, policy):
    real, simulated = (steps(machine, policy, True) for steps in (real_steps, simulated_steps))
    assert [step[1:] for step in simulated] == [step[1:] for step in real]
    assert [step[0] for step in simulated] == pytest.approx([step[0] for step in real])
    assert sum(verified for _, _, verified in real) > STEPS


def test_plain_steps_are_those_of_the_real_engine():
    real, simulated = (steps("smooth", Off, False) for steps in (real_steps, simulated_steps))
    assert [step[1:] for step in simulated] == [step[1:] for step in real]
    assert [step[0] for step in simulated] == pytest.approx([step[0] for step in real])
