"""Texts of the tiny target through the real loop follow their law: the quick certificate's cells, and its power."""

import numpy as np
import pytest

from bench.prove.cells import DRAFTERS, POLICIES, SAMPLINGS, VERIFIERS, pairwise_cells
from bench.prove.loop import (
    ALPHA,
    MIXED_SAMPLINGS,
    PROMPT,
    QUICK,
    Ask,
    draw,
    fit_cell,
    fit_mixed,
    fit_plain,
    fit_reclaimed,
)
from bench.prove.outcome import of_fits
from bench.prove.text_laws import last_logits, next_law
from core.statistics import chi_square_p_value
from core.types import Sampling

CELLS = {cell.name: cell for cell in pairwise_cells(list(DRAFTERS))}


def assert_passes(outcome):
    assert outcome.passes, outcome.detail


@pytest.mark.parametrize("name", CELLS)
def test_texts_follow_the_targets_law(bed, name):
    assert_passes(of_fits([fit_cell(bed, CELLS[name])]))


@pytest.mark.parametrize(("verifier", "sampling"), [("rejection", "plain"), ("coupled", "penalties")])
def test_texts_without_drafts_follow_the_targets_law(bed, sampling, verifier):
    assert_passes(of_fits([fit_plain(bed, verifier, sampling)], must_draft=False))


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_jobs_claimed_again_beside_a_warm_policy_follow_the_targets_law(bed, drafter):
    assert_passes(of_fits([fit_reclaimed(bed, drafter)]))


def test_drafters_policies_verifiers_and_samplings_share_batches(bed):
    fits = fit_mixed(bed)
    assert len(fits) == len(MIXED_SAMPLINGS)
    assert_passes(of_fits(fits))


def test_a_law_that_is_off_by_a_tenth_is_told_from_the_true_one(bed):
    [texts] = draw(bed.engine(["dspark"], ["fixed"]), bed, "power", [Ask(Sampling())] * QUICK.num_draws).values()
    law = bed.laws.law(Sampling())
    shifted = law.copy()
    order = np.argsort(law)
    shifted[order[-3:]] -= 0.1 / 3
    shifted[order[:10]] += 0.01
    assert np.abs(shifted - law).sum() / 2 == pytest.approx(0.1)
    counts = np.bincount(bed.laws.codes(texts), minlength=len(law))
    assert chi_square_p_value(counts, shifted) < ALPHA < chi_square_p_value(counts, law)


def test_the_law_of_texts_is_a_law_and_reads_the_first_token_as_summed_out(bed):
    law, target = bed.laws.law(Sampling()), bed.target
    assert law.sum() == pytest.approx(1.0)
    first = next_law(last_logits(target, PROMPT), Sampling(), PROMPT, ())
    second = [next_law(last_logits(target, (*PROMPT, v)), Sampling(), PROMPT, (v,)) for v in range(5)]
    assert law.reshape(5, 5).sum(1) == pytest.approx(first @ np.array(second))


def test_every_pair_of_choices_is_in_a_quick_cell():
    cells = CELLS.values()
    assert {(c.policy, c.sampling) for c in cells} >= {(p, s) for p in POLICIES for s in SAMPLINGS}
    assert {(c.drafter, c.verifier) for c in cells} == {(d, v) for d in DRAFTERS for v in VERIFIERS}
    assert {(c.drafter, c.policy) for c in cells} >= {(d, p) for d in DRAFTERS for p in POLICIES}
