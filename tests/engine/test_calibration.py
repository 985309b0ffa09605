"""A group's own calibration: what its survivals are made with, what it learns from, what the engine tells of it."""

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from structlog.testing import capture_logs

from core.planning import Calibration
from kernels.survival import survival
from policies.fixed import Fixed
from policies.online_calibration import OnlineCalibration
from service.telemetry.worker_stats import QueueTimes, decode_stats, encode_stats
from toys import make_engine, request, run, tiny_dspark, tiny_target

KNOWN = Calibration((0.5, 1.0, 2.0, 0.1), (0.3, 0.0, -1.0, 0.0))
PROMPTS = [tuple((7 * i + j) % 32 for j in range(5 + i)) for i in range(12)]


@pytest.fixture(scope="module")
def target():
    return tiny_target()


def knowing(drafter, calibration):
    """The drafter, with what a checkpoint says of it."""
    drafter.spec = replace(drafter.spec, calibration=calibration)
    return drafter


class Watching(Fixed):
    """Verify everything, say a calibration or none, keep all outcomes."""

    def __init__(self, calibration=None):
        super().__init__(4)
        self.calibration, self.outcomes = calibration, []

    def plan(self, view):
        return replace(super().plan(view), calibration=self.calibration)

    def observe(self, outcome):
        self.outcomes.append(outcome)


def served(target, drafter, policy, tokens=60):
    engine = make_engine(target, drafter, policy)
    run(engine, [request(PROMPTS[i], i, str(i), max_tokens=tokens) for i in range(12)])
    return engine


def expected(outcome, calibration):
    evidence, lengths = torch.from_numpy(outcome.evidence), torch.from_numpy(outcome.drafted)
    return survival(evidence, lengths, calibration).numpy()


def test_survivals_begin_with_what_the_drafter_knows_of_itself(target):
    policy = Watching()
    served(target, knowing(tiny_dspark(target), KNOWN), policy, tokens=4)
    first = next(each for each in policy.outcomes if each.drafted.any())
    np.testing.assert_allclose(first.survival, expected(first, KNOWN), atol=1e-6)


def test_a_policy_with_a_calibration_of_its_own_is_heeded(target):
    policy = Watching(Calibration((0.0,) * 4, (0.0,) * 4))
    served(target, knowing(tiny_dspark(target), KNOWN), policy, tokens=4)
    first = next(each for each in policy.outcomes if each.drafted.any())
    full = first.drafted == 4
    np.testing.assert_allclose(first.survival[full], np.tile(0.5 ** np.arange(1, 5), (full.sum(), 1)), atol=1e-6)


def test_what_finished_steps_taught_is_used_and_never_that_of_the_step_at_hand(target):
    policy = Watching()
    served(target, tiny_dspark(target), policy)
    # Replayed: every step's survivals are those of a calibration that has heard the steps before it, and only these.
    replayed, seen = OnlineCalibration(4), set()
    for outcome in policy.outcomes:
        if outcome.drafted.any():
            np.testing.assert_allclose(outcome.survival, expected(outcome, replayed.calibration), atol=1e-6)
        replayed.observe(outcome)
        seen.add(replayed.calibration)
    assert len(seen) > 2


def test_predictions_come_to_match_what_is_accepted(target):
    policy = Watching()
    served(target, tiny_dspark(target), policy, tokens=200)
    late = [each for each in policy.outcomes if each.drafted.any() and (each.drafted == 4).all()][50:]
    evidence, survival, accepted = (
        np.concatenate([getattr(each, name) for each in late]) for name in ("evidence", "survival", "accepted")
    )
    observed = 1 + accepted.mean()
    assert 1 + survival.sum(1).mean() == pytest.approx(observed, rel=0.08)
    assert 1 + np.cumprod(1 / (1 + np.exp(-evidence)), 1).sum(1).mean() > 1.3 * observed


def test_a_checkpoint_that_promises_far_too_much_is_found_out_and_logged(target):
    boastful = knowing(tiny_dspark(target), Calibration((1.0,) * 4, (6.0,) * 4))
    with capture_logs() as logs:
        engine = served(target, boastful, Fixed(4))
    told = [each for each in logs if each["event"] == "calibration_drift"]
    assert (told[0]["fallback"], told[0]["drafter"], told[0]["log_level"]) == ("refit", "dspark", "warning")
    assert engine.groups.by_key["dspark", "fixed"].calibration.state.num_alarms >= 1


def test_the_engine_tells_what_workers_pass_on(target):
    engine = served(target, tiny_dspark(target), Fixed(4))
    told = decode_stats(encode_stats(engine.snapshot(), QueueTimes())).engine.calibrations
    assert [(each.drafter, each.policy, each.fallback) for each in told] == [("dspark", "fixed", 0)]
    assert told[0].report == engine.groups.by_key["dspark", "fixed"].calibration.state.report
    assert told[0].report.rounds > 64
