"""Recorded acceptance through the real engine: what was recorded is what verification finds, in the clock's time."""

import pytest

from bench.replay.clock import ModelledMachine
from bench.replay.recording import read_recording
from bench.replay.run import ReplayRun
from policies.fixed import Fixed, Off
from policies.load_adaptive import LoadAdaptive


@pytest.fixture(scope="module")
def machine():
    return ModelledMachine("smooth")


def run_of(machine, policy, load=1, **options):
    return ReplayRun(read_recording(), (machine,), policy, load, **options)


def walk(accepted, length, num_anchors):
    """Return the tokens that a request's rounds bring, by the recording's own rule."""
    # The prompt is being computed in the first step, so that one cannot draft.
    rounds, anchor = [1], 1
    while anchor < num_anchors:
        # The last token of a text is never a draft: one of every round is the target's own.
        room = min(length, num_anchors - anchor - 1)
        rounds.append(min(int(accepted[anchor]), room) + 1)
        anchor += rounds[-1]
    return rounds


@pytest.mark.parametrize("length", [1, 3, 7])
def test_a_request_is_accepted_as_it_was_recorded(machine, length):
    run = run_of(machine, lambda: Fixed(length))
    recording = run.recording
    expected = walk(recording.accepted[0], length, recording.length)
    tally = run.measure(len(expected))
    assert (tally.rounds, tally.tokens) == (len(expected), sum(expected))
    assert run.num_running == 0


def test_a_step_takes_the_clocks_time_whatever_it_took_here(machine):
    run = run_of(machine, lambda: Fixed(7), load=4)
    run.measure(40)
    before = run.clock.now_s[0]
    tally = run.measure(4)
    assert tally.seconds[0] == pytest.approx(machine.verify_s(4, 4 + tally.verified) + machine.draft_s(4))
    assert run.clock.now_s[0] == pytest.approx(before + tally.seconds[0])


def test_without_a_drafter_only_anchors_are_paid_for(machine):
    run = run_of(machine, Off, load=4, has_drafter=False)
    run.measure(8)
    tally = run.measure(8)
    assert tally.seconds[0] == pytest.approx(2 * machine.verify_s(4, 4))
    assert tally.tokens == 8


def test_a_padded_machine_charges_the_next_shape():
    stairs = ModelledMachine("staircase")
    assert stairs.verify_s(0, 129) == stairs.verify_s(0, 160) > stairs.verify_s(0, 128)
    assert stairs.table().row_shapes[:3] == (1, 2, 4)


@pytest.mark.parametrize("name", ["smooth", "staircase"])
def test_at_a_load_in_between_the_default_policy_beats_off_and_the_full_block(name):
    machine = ModelledMachine(name)
    plain, block, adaptive = (run_of(machine, policy, 64) for policy in (Off, lambda: Fixed(7), LoadAdaptive))
    for run in (plain, block, adaptive):
        run.measure(1000)
    rate = adaptive.measure(3000).rate()
    assert rate > 1.05 * block.measure(3000).rate()
    assert rate > 1.5 * plain.measure(1000).rate()
