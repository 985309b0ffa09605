"""Fits recover what a drafter's evidence means, trimmed drafts or not."""

import numpy as np
import pytest

from core.planning import Calibration
from core.reliability import measure
from policies.calibration_fit import (
    TEMPERATURES,
    fit_logistic,
    fit_temperatures,
    identity,
    risk_set,
    survivals,
)
from tests.policies.drafters import G, SyntheticDrafter, bias

TRUE = Calibration((0.5, 1.0, 0.7, 1.4), (0.3, -0.5, 0.0, -1.0))
TEMPERED = Calibration((0.5, 1.0, 2.0, 0.25), (0.0,) * G)


def fit(evidence, verified, accepted, labels=None):
    hard = (np.arange(G) < accepted[:, None]).astype(np.float32)
    return fit_logistic(evidence, risk_set(verified, accepted, G), hard if labels is None else labels, identity(G))


def test_temperatures_recover_those_that_made_the_rounds():
    evidence, _, accepted = SyntheticDrafter(TEMPERED).rounds(15_000)
    found = fit_temperatures(evidence, accepted, np.full_like(accepted, G))
    # Within a few steps of the grid: fewer drafts get to the positions on the right.
    assert found.slope == pytest.approx(TEMPERED.slope, rel=0.3)
    assert found.intercept == (0.0,) * G
    assert 1.0 in TEMPERATURES.round(12)
    raw, fitted = (survivals(evidence, each) for each in (identity(G), found))
    for k in range(G):
        assert measure(fitted[:, k], accepted > k).error < 0.006
    assert measure(raw[:, G - 1], accepted == G).error > 0.03


def test_evidence_that_is_right_is_left_as_it_is():
    evidence, _, accepted = SyntheticDrafter(identity(G)).rounds(10_000)
    assert fit_temperatures(evidence, accepted, np.full_like(accepted, G)).slope == pytest.approx((1.0,) * G, rel=0.25)


def test_drafts_past_an_end_of_text_change_no_temperature():
    evidence, _, accepted = SyntheticDrafter(TEMPERED).rounds(15_000)
    full = np.full_like(accepted, G)
    # In every third round the second draft may end the text: where it is accepted, what follows is not judged.
    is_cut = (np.arange(len(accepted)) % 3 == 0) & (accepted >= 2)
    judged, kept = np.where(is_cut, 2, full), np.minimum(accepted, np.where(is_cut, 2, full))
    found, whole = fit_temperatures(evidence, kept, judged), fit_temperatures(evidence, accepted, full)
    assert found.slope[:2] == whole.slope[:2]
    assert fit_temperatures(evidence, np.minimum(kept, 2), np.full_like(kept, 2)).slope[2:] == (1.0, 1.0)
    # The third is judged of those alone that were not cut.
    assert found.slope == fit_temperatures(np.where(judged[:, None] > np.arange(G), evidence, 99.0), kept, judged).slope


def test_the_logistic_fit_recovers_slope_and_intercept():
    evidence, chance, accepted = SyntheticDrafter(TRUE).rounds(40_000)
    full = np.full_like(accepted, G)
    for labels in (None, chance):
        found = fit(evidence, full, accepted, labels)
        assert found.slope == pytest.approx(TRUE.slope, abs=0.12)
        assert found.intercept == pytest.approx(TRUE.intercept, abs=0.12)


def test_chances_as_labels_say_the_same_with_less_noise():
    evidence, chance, accepted = SyntheticDrafter(TRUE).rounds(2000)
    full = np.full_like(accepted, G)
    soft, hard = fit(evidence, full, accepted, chance), fit(evidence, full, accepted)
    assert soft.slope == pytest.approx(TRUE.slope, abs=1e-3)
    assert hard.slope != pytest.approx(TRUE.slope, abs=0.01)


def test_hazards_are_not_biased_by_what_was_trimmed():
    drafter = SyntheticDrafter(TRUE)
    evidence, _, full = drafter.rounds(60_000)
    verified = (survivals(evidence, TRUE) >= 0.35).sum(1).astype(np.int32)
    assert (verified < G).mean() > 0.5
    accepted = np.minimum(full, verified)
    assert np.abs(bias(drafter, fit(evidence, verified, accepted))).max() < 0.02


def test_labels_of_whole_prefixes_are():
    drafter = SyntheticDrafter(TRUE)
    evidence, _, full = drafter.rounds(60_000)
    verified = (survivals(evidence, TRUE) >= 0.35).sum(1).astype(np.int32)
    accepted = np.minimum(full, verified)
    hard = (np.arange(G) < accepted[:, None]).astype(np.float32)
    # All that was rejected counts at every later position, what was cut and would have survived counts as lost.
    naive = fit_logistic(evidence, np.ones_like(hard, dtype=np.bool_), hard, identity(G))
    assert bias(drafter, naive).min() < -0.2


def test_a_position_without_labels_stays_as_it_was():
    evidence, _, accepted = SyntheticDrafter(TRUE).rounds(2000)
    verified = np.minimum(accepted, 2)
    start = Calibration((0.3, 0.4, 0.5, 0.6), (0.1, 0.2, 0.3, 0.4))
    risk = risk_set(verified, np.minimum(accepted, 2), G)
    found = fit_logistic(evidence, risk, np.ones_like(evidence), start)
    assert found.slope[2:] == start.slope[2:]
    assert found.intercept[2:] == start.intercept[2:]


def test_evidence_that_is_no_number_does_not_count():
    evidence, _, accepted = SyntheticDrafter(TRUE).rounds(5000)
    full = np.full_like(accepted, G)
    spoilt = np.concatenate((evidence, np.full((500, G), np.nan, dtype=np.float32)))
    more = np.concatenate((accepted, np.zeros(500, dtype=np.int32)))
    assert fit(spoilt, np.full_like(more, G), more).slope == pytest.approx(fit(evidence, full, accepted).slope)
