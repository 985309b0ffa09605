"""What a device leaves the host time for is done while it runs: no text, no count and no policy can tell.

No device is needed: see tests/engine/pretend_device.py.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from core.random import round_uniforms
from core.types import Numerics
from drafters.dspark import DSpark
from engine import engine as engine_module
from engine.anchors import anchors_of
from engine.draws_ahead import DrawsAhead
from engine.engine import Engine
from engine.slots import SlotTable
from policies.fixed import Fixed
from tests.engine.pretend_device import move, pretended
from tests.engine.pretend_kernels import stand_in
from toys import SHAPE, make_engine, request, run, tiny_dspark, tiny_target

PROMPTS = [tuple((3 * i + 5 * j * j) % 32 for j in range(9 + 7 * i)) for i in range(4)]
WIDTH = 3


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    stand_in(monkeypatch)


def here(network):
    return network


def make(where=here, policy=lambda: Fixed(3), shape=SHAPE):
    target = tiny_target(numerics=Numerics.BATCH_INVARIANT)
    drafter = tiny_dspark(target)
    where(target)
    where(drafter.network)
    return make_engine(target, drafter, policy(), shape)


def requests(names="0123", **law):
    return [request(PROMPTS[int(n)], int(n), n, **({"max_tokens": 10, "temperature": 0.9} | law)) for n in names]


def on_both(act, **how):
    """Do the same with an engine on the CPU and one on the device; returns both, and what came of it."""
    plain = make(**how)
    expected = act(plain)
    with pretended():
        engine = make(move, **how)
        said = act(engine)
    assert said == expected
    return plain, engine


def counted(engine):
    """What was counted of rounds, but for times."""
    snapshot = engine.snapshot()
    timed = {"plain_s", "spent_s", "benefit"}
    (group,) = ({name: each[name] for name in each if name not in timed} for each in snapshot["groups"])
    recent = [(each.step, each.sequences, each.verified, each.accepted) for each in snapshot["recent_steps"]]
    return group, recent, snapshot["calibrations"], snapshot["steps"], snapshot["emitted"], snapshot["fallbacks"]


def test_all_is_counted_that_a_cpu_counts_when_somebody_looks_also_half_way():
    def act(engine):
        for each in requests():
            engine.add(each)
        for _ in range(4):
            engine.step()
        half_way = counted(engine)
        while engine.has_work:
            engine.step()
        assert not engine._uncounted
        return half_way, counted(engine)

    _, engine = on_both(act)
    assert 0 < engine.stats.accepted < engine.stats.verified


def test_a_round_is_told_of_and_counted_while_the_device_runs_the_next_one(monkeypatch):
    order = []

    def noted(owner, name, what):
        honest = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *given: order.append(what) or honest(*given))

    noted(Engine, "_verify", "launched")
    noted(engine_module, "count", "counted")
    noted(engine_module, "read", "read")
    noted(engine_module, "teach", "taught")
    with pretended():
        engine = make(move)
        for each in requests("01"):
            engine.add(each)
        for _ in range(3):
            engine.step(lambda: order.append("told"))
    assert order == ["launched", "told", "counted", "read", "taught"] * 3


def test_a_policy_sees_each_step_before_it_plans_the_next():
    class Noting(Fixed):
        def __init__(self):
            super().__init__(3)
            self.calls = []

        def plan(self, view):
            self.calls.append(("plan", view.step, np.isnan(view.survival_lag[:, 0]).tolist()))
            return super().plan(view)

        def observe(self, outcome):
            self.calls.append(("observe", outcome.step, len(outcome.slots)))

    policies = []

    def policy():
        policies.append(Noting())
        return policies[-1]

    on_both(lambda engine: run(engine, requests()), policy=policy)
    cpu, device = (each.calls for each in policies)
    assert device == cpu
    assert [call for call, *_ in device] == ["plan", "observe"] * (len(device) // 2)


@pytest.mark.parametrize("law", [pytest.param({}, marks=pytest.mark.slow), {"seed": 5}], ids=["sampled", "seeded"])
def test_preemption_a_cached_prefix_and_an_abort_change_no_text(law):
    def act(engine):
        texts = [run(engine, requests("01", max_tokens=26, **law))]
        for each in requests("01", **law):
            engine.add(each)
        engine.step()
        engine.step()
        engine.abort("1")
        while engine.has_work:
            texts.append([(each.request_id, each.token_ids, each.finish_reason) for each in engine.step()])
        return texts

    plain, engine = on_both(act, shape=replace(SHAPE, kv_cache_tokens=60))
    for one in (plain.scheduler, engine.scheduler):
        assert one.num_preemptions > 0
        assert one.prefix_hits > 0
    assert plain.scheduler.num_preemptions == engine.scheduler.num_preemptions
    assert engine._draws.ahead.num_found > engine._draws.ahead.num_made > 0


@pytest.mark.parametrize("failing", ["plan", "observe", "propose"])
def test_a_fault_of_a_policy_or_a_drafter_is_what_it_is_without_a_device(monkeypatch, failing):
    class Faulty(Fixed):
        num_calls = 0

        def plan(self, view):
            return self.fail("plan") or super().plan(view)

        def observe(self, outcome):
            self.fail("observe")

        def fail(self, name):
            self.num_calls += name == failing
            if name == failing and self.num_calls % 3 == 2:
                raise ValueError("no")

    honest = DSpark.propose

    def propose(drafter, ask):
        drafter.num_asks = getattr(drafter, "num_asks", 0) + 1
        if failing == "propose" and drafter.num_asks % 3 == 2:
            raise ValueError("no")
        return honest(drafter, ask)

    monkeypatch.setattr(DSpark, "propose", propose)
    _, engine = on_both(lambda engine: (run(engine, requests()), counted(engine)), policy=lambda: Faulty(3))
    assert engine.stats.fallbacks["drafter" if failing == "propose" else "policy"] > 1
    assert engine.stats.accepted > 0


def test_on_a_cpu_nothing_is_made_ahead_and_nobody_told_meanwhile():
    engine, told = make(), []
    run(engine, requests())
    for each in requests():
        engine.add(each)
    engine.step(lambda: told.append(1))
    assert (told, engine.runs_apart) == ([], False)
    assert (engine._draws.ahead.num_found, "overlap" in engine.stats.seconds) == (0, False)
    assert engine._draws.ahead.num_made > 0


def sequence(slot, nonce, length, attempt=0, temperature=1.0):
    asked = SimpleNamespace(nonce=nonce, sampling=SimpleNamespace(temperature=temperature))
    return SimpleNamespace(slot=slot, request=asked, tokens=[0] * length, attempt=attempt)


def alone(sequences):
    nonces = np.array([one.request.nonce for one in sequences], dtype=np.uint64)
    anchors = np.array([len(one.tokens) - 1 for one in sequences], dtype=np.int64)
    attempts = np.array([one.attempt for one in sequences], dtype=np.int64)
    return round_uniforms(nonces, anchors, attempts, WIDTH)


def assert_own(draws, *sequences):
    for found, expected in zip(draws.of(anchors_of(sequences)), alone(sequences), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("gained", range(WIDTH + 2))
def test_whatever_a_round_comes_to_the_next_draws_with_its_own_anchors_numbers(gained):
    draws, both = DrawsAhead(4, WIDTH), (sequence(0, 11, 5), sequence(2, (1 << 64) - 3, 40))
    draws.prepare(both)
    both[0].tokens += [0] * gained
    both[1].tokens += [0]
    assert_own(draws, *both)
    # One that got nothing is made anew.
    assert (draws.num_found, draws.num_made) == ((2, 0) if gained else (1, 1))


def test_what_was_made_for_one_sequence_is_never_drawn_by_another():
    draws, one = DrawsAhead(4, WIDTH), sequence(1, 11, 5)
    draws.prepare((one,))
    assert_own(draws, sequence(1, 12, 6))
    assert_own(draws, sequence(1, 11, 6, attempt=1))
    assert_own(draws, sequence(3, 11, 6), sequence(1, 11, 5 + WIDTH + 2))
    assert draws.num_found == 0
    assert_own(draws, sequence(1, 11, 6), sequence(0, 9, 6))
    assert draws.num_found == 1


def test_block_tables_of_several_sequences_are_written_whole_and_no_others():
    slots = SlotTable(4, 6, 8)
    slots.block_tables.fill_(9)
    slots.write_blocks([SimpleNamespace(slot=2, blocks=[5, 6, 7]), SimpleNamespace(slot=0, blocks=[3])])
    assert slots.block_tables.tolist() == [[3, 0, 0, 0, 0, 0], [9] * 6, [5, 6, 7, 0, 0, 0], [9] * 6]
    slots.write_blocks([])
    slots.write_blocks([SimpleNamespace(slot=2, blocks=[])])
    assert slots.block_tables[2].tolist() == [0] * 6
    assert slots.block_tables.dtype == torch.int64
