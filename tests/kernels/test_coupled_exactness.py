"""Coupled answers are functions of target, key and position alone, and each token follows the target's law."""

import numpy as np
import pytest
import torch

from core.statistics import chi_square_p_value
from kernels.coupled import couple
from tests.kernels.coupled_rounds import (
    ToyPair,
    as_draft,
    decode_plainly,
    draft_blindly,
    draft_coupled,
    draft_one_late,
    noise_at,
    noise_by_row,
    noise_one_late,
    noise_with_another_bonus,
    speculate,
    verify_all,
    verify_any_number,
    verify_in_hindsight,
    verify_none,
)

DRAFTERS = [draft_coupled, draft_one_late, draft_blindly]
CHOOSERS = [verify_none, verify_all, verify_any_number, verify_in_hindsight]
MISTAKES = [noise_by_row, noise_with_another_bonus, noise_one_late]
KEYS = np.arange(1, 65, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
NUM_REQUESTS = 30000


def by_name(value):
    return getattr(value, "__name__", None)


@pytest.mark.parametrize("draft", DRAFTERS, ids=by_name)
@pytest.mark.parametrize("choose", CHOOSERS, ids=by_name)
@pytest.mark.parametrize("vocab", [2, 7, 100])
def test_an_answer_is_the_one_decoded_without_drafts(vocab, draft, choose):
    pair = ToyPair(vocab, seed=vocab)
    answers = speculate(pair, KEYS, 40, draft, choose)
    assert torch.equal(answers.tokens, decode_plainly(pair, KEYS, 40))


def test_drafts_were_accepted_and_rejected_on_the_way():
    answers = speculate(ToyPair(7, seed=7), KEYS, 40, draft_coupled, verify_any_number)
    assert 0.2 < answers.num_accepted / answers.num_verified < 0.9


def test_answers_do_not_depend_on_who_else_is_served():
    pair = ToyPair(7, seed=7)
    together = speculate(pair, KEYS, 40, draft_coupled, verify_all).tokens
    for b in range(3):
        assert torch.equal(speculate(pair, KEYS[b : b + 1], 40, draft_coupled, verify_none).tokens[0], together[b])


@pytest.mark.parametrize("noise", MISTAKES, ids=by_name)
def test_planted_mistakes_change_the_answer(noise):
    pair = ToyPair(7, seed=7)
    answers = speculate(pair, KEYS, 40, draft_coupled, verify_any_number, noise)
    assert not torch.equal(answers.tokens, decode_plainly(pair, KEYS, 40))


# --- The law -----------------------------------------------------------------------------------------------------


def p_values_of_answers(pair, draft, choose, noise=noise_at):
    """Return p-values of the first token and of the first three jointly, over NUM_REQUESTS keys."""
    keys = np.arange(NUM_REQUESTS, dtype=np.uint64)
    tokens = speculate(pair, keys, 3, draft, choose, noise).tokens
    p, vocab = pair.p.double().softmax(-1), pair.vocab
    joint = p[0][:, None, None] * p[:, :, None] * p[None]  # [V, V, V]
    words = (tokens[:, 0] * vocab + tokens[:, 1]) * vocab + tokens[:, 2]
    return (
        chi_square_p_value(tokens[:, 0].bincount(minlength=vocab), p[0]),
        chi_square_p_value(words.bincount(minlength=vocab**3), joint.flatten()),
    )


# Level: 36 p-values, 1e-3 in all. Power: a first token whose law is off by a total variation of .03, or three tokens
# off by .05, would be missed less than once in a thousand runs.
@pytest.mark.parametrize("choose", [verify_all, verify_any_number, verify_in_hindsight], ids=by_name)
@pytest.mark.parametrize("closeness", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("vocab", [2, 4])
def test_tokens_follow_the_target_law_whatever_the_drafter(vocab, closeness, choose):
    p_values = p_values_of_answers(ToyPair(vocab, seed=1, closeness=closeness), draft_coupled, choose)
    assert min(p_values) > 1e-3 / 36


@pytest.mark.parametrize("noise", [noise_by_row, noise_one_late], ids=by_name)
def test_noise_used_twice_leaves_the_law(noise):
    assert min(p_values_of_answers(ToyPair(4, seed=1), draft_coupled, verify_any_number, noise)) < 1e-9


# --- Acceptance --------------------------------------------------------------------------------------------------


def laws(vocab, seed, scale):
    rng = torch.Generator().manual_seed(seed)
    return scale * torch.randn(vocab, generator=rng), scale * torch.randn(vocab, generator=rng)


def chance_of_agreement(p, q):
    """Return the chance that both argmax agree: token i wins both races with 1 / sum_j max(p_j / p_i, q_j / q_i)."""
    p, q = p.double().softmax(-1), q.double().softmax(-1)
    return float((1 / torch.maximum(p / p[:, None], q / q[:, None]).sum(1)).sum())


def bound(p, q):
    variation = float((p.double().softmax(-1) - q.double().softmax(-1)).abs().sum()) / 2
    return (1 - variation) / (1 + variation)


def share_accepted(p, q, draft):
    keys = np.arange(NUM_REQUESTS, dtype=np.uint64)
    gumbel = noise_at(keys, np.zeros(NUM_REQUESTS, dtype=np.int64), 2, len(p))
    tokens = draft(q.expand(NUM_REQUESTS, -1), gumbel, 0)[:, None]
    rows = p.expand(2 * NUM_REQUESTS, -1)
    return float(couple(rows, as_draft(tokens), torch.ones(NUM_REQUESTS, dtype=torch.int32), gumbel).soft_labels.mean())


@pytest.mark.parametrize("seed", range(40))
def test_the_chance_of_agreement_keeps_its_bound(seed):
    p, q = laws(2 + seed % 9, seed, scale=0.5 + seed % 4)
    assert chance_of_agreement(p, q) >= bound(p, q) - 1e-12


# Five standard errors of the share: 24 sound cells fail together less than once in 70000 runs.
@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("seed", range(8))
def test_drafts_are_accepted_as_often_as_the_coupling_allows(seed, scale):
    p, q = laws(6, seed, scale)
    share = share_accepted(p, q, draft_coupled)
    slack = 2.5 / NUM_REQUESTS**0.5
    assert share == pytest.approx(chance_of_agreement(p, q), abs=slack)
    assert share >= bound(p, q) - slack


def test_a_drafter_with_the_next_positions_noise_falls_below_the_bound():
    p, _ = laws(6, 0, scale=1.0)
    assert share_accepted(p, p, draft_coupled) == 1.0
    assert share_accepted(p, p, draft_one_late) < bound(p, p) - 0.3
