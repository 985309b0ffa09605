"""What serving learns of a drafter's evidence."""

import numpy as np
import pytest

import policies.online_calibration
from core.planning import Calibration
from policies.calibration_fit import identity
from policies.drift import Fallback
from policies.evidence_table import EvidenceTable, Judged
from policies.online_calibration import FIRST_REFIT, OnlineCalibration
from tests.policies.drafters import G, SyntheticDrafter, bias

TRUE = Calibration((0.5, 1.0, 0.7, 1.4), (0.3, -0.5, 0.0, -1.0))


@pytest.mark.parametrize("hard", [False, True], ids=["chances", "outcomes"])
@pytest.mark.parametrize("bar", [0.0, 0.35], ids=["full", "trimmed"])
def test_a_miscalibrated_drafter_is_recovered(hard, bar):
    drafter = SyntheticDrafter(TRUE)
    assert np.abs(bias(drafter, identity(G))).max() > 0.1
    online = drafter.serve(OnlineCalibration(G), 1000, hard=hard, bar=bar)
    assert np.abs(bias(drafter, online.calibration)).max() < 0.03
    assert online.calibration.slope == pytest.approx(TRUE.slope, abs=0.2)


def test_nothing_wild_is_learnt_from_little():
    drafter = SyntheticDrafter(Calibration((1.0,) * G, (-9.0,) * G))
    online = OnlineCalibration(G)
    assert online.calibration == identity(G)
    drafter.serve(online, 1, size=FIRST_REFIT - 1)
    assert online.calibration == identity(G)
    drafter.serve(online, 1, size=1)
    # Every first draft was rejected: 32 such rounds count, 64 believed ones do too.
    assert -2.5 < online.calibration.intercept[0] < -0.5
    assert all(0.5 < slope < 2.0 for slope in online.calibration.slope)


def test_what_the_checkpoint_knows_is_not_thrown_away():
    drafter = SyntheticDrafter(TRUE)
    known = drafter.serve(OnlineCalibration(G, TRUE), 8)
    assert known.calibration.slope == pytest.approx(TRUE.slope, abs=0.05)
    unknown = drafter.serve(OnlineCalibration(G), 8)
    assert np.abs(bias(drafter, known.calibration)).max() < np.abs(bias(drafter, unknown.calibration)).max()


def test_a_calibration_is_replaced_not_changed():
    drafter, online = SyntheticDrafter(TRUE), OnlineCalibration(G)
    seen = [online.calibration]
    for _ in range(200):
        online.observe(drafter.step(16, online.calibration))
        if online.calibration is not seen[-1]:
            seen.append(online.calibration)
    assert 4 < len(seen) < 12
    assert seen[0] == identity(G)


def test_steps_without_verified_drafts_teach_nothing():
    drafter, online = SyntheticDrafter(TRUE), OnlineCalibration(G)
    drafter.serve(online, 50, bar=2.0)
    assert online.calibration == identity(G)


class TestProbes:
    """A draft after a doubtful one is harder than its evidence says, and the policy tries few of these."""

    def served(self, probed, weight, monkeypatch):
        monkeypatch.setattr(policies.online_calibration, "MOST_WEIGHT", weight)
        drafter = SyntheticDrafter(TRUE, hidden=2.0)
        online = drafter.serve(OnlineCalibration(G), 1500, bar=0.5, probed=probed)
        return bias(drafter, online.calibration)[1:]

    def test_without_them_trimmed_drafts_are_believed_too_much(self, monkeypatch):
        assert self.served(0.0, 8.0, monkeypatch).max() > 0.1

    def test_with_them_less(self, monkeypatch):
        alone, heard = self.served(0.0, 8.0, monkeypatch), self.served(0.02, 8.0, monkeypatch)
        assert np.abs(heard).max() < 0.6 * np.abs(alone).max()

    def test_at_their_full_weight_not_at_all(self, monkeypatch):
        assert np.abs(self.served(0.02, 50.0, monkeypatch)).max() < 0.03


class TestDrift:
    CHANGED = Calibration(TRUE.slope, tuple(each - 1.5 for each in TRUE.intercept))

    def test_an_alarm_is_raised_and_intercepts_follow(self):
        online = SyntheticDrafter(TRUE).serve(OnlineCalibration(G, TRUE), 300)
        assert (online.state.num_alarms, online.fallback) == (0, Fallback.NONE)
        changed = SyntheticDrafter(self.CHANGED)
        before = np.abs(bias(changed, online.calibration))
        changed.serve(online, 300)
        assert online.state.num_alarms >= 1
        assert online.fallback >= Fallback.REFIT
        assert (np.abs(bias(changed, online.calibration)) < 0.3 * before).all()
        assert before.min() > 0.15

    def test_a_drafter_whose_evidence_turns_to_noise_goes_by_its_history(self):
        table = EvidenceTable(2)
        random = np.random.default_rng(0)
        position = np.repeat((0, 1), 5000)
        label = random.random(10_000) < np.where(position == 0, 0.8, 0.3)
        table.count(Judged(position, random.normal(0, 3, 10_000), label.astype(float), np.ones(10_000)), 5000, 1.0)
        found = table.history(identity(2))
        assert found.slope == (0.0, 0.0)
        assert 1 / (1 + np.exp(-np.array(found.intercept))) == pytest.approx((0.8, 0.3), abs=0.03)


class TestReport:
    def test_it_tells_how_good_survivals_were(self):
        online = SyntheticDrafter(TRUE).serve(OnlineCalibration(G), 300)
        report = online.state.report
        assert report.rounds == 4096
        assert max(report.ece) < 0.03
        assert min(report.auc) > 0.6
        assert report.predicted_length == pytest.approx(report.observed_length, rel=0.03)

    def test_it_hears_only_rounds_that_were_verified_in_full(self):
        drafter = SyntheticDrafter(TRUE)
        online = drafter.serve(OnlineCalibration(G), 300, bar=0.35)
        assert online.state.report.rounds == 0
        drafter.serve(online, 300, bar=0.35, probed=0.02)
        assert 100 < online.state.report.rounds < 300
        assert online.state.report.predicted_length == pytest.approx(online.state.report.observed_length, rel=0.1)
