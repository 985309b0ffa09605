"""Plain rounds draw with the numbers of their own anchors, whatever was made ahead for others."""

from types import SimpleNamespace

import numpy as np
import pytest

from core.random import round_uniforms
from engine.target_draws import AHEAD, TargetDraws


def sequence(slot, nonce, length, attempt=0):
    return SimpleNamespace(slot=slot, request=SimpleNamespace(nonce=nonce), tokens=[0] * length, attempt=attempt)


def expected(sequences):
    """Return what each sequence's next round is to be drawn with, f32 [B, 1], computed for this round alone."""
    nonces = np.array([one.request.nonce for one in sequences], dtype=np.uint64)
    anchors = np.array([len(one.tokens) - 1 for one in sequences], dtype=np.int64)
    attempts = np.array([one.attempt for one in sequences], dtype=np.int64)
    return round_uniforms(nonces, anchors, attempts, 0)[1]


def go_on(draws, sequences, rounds):
    for _ in range(rounds):
        np.testing.assert_array_equal(draws.of(tuple(sequences)).numpy(), expected(sequences))
        for one in sequences:
            one.tokens.append(0)


@pytest.fixture
def draws():
    return TargetDraws(4)


@pytest.fixture
def pair():
    return [sequence(0, 11, 5), sequence(2, (1 << 64) - 3, 40)]


def test_every_round_has_its_own_anchors_numbers_also_past_what_was_made_ahead(draws, pair):
    go_on(draws, pair, 2 * AHEAD + 3)


def test_a_batch_that_changes_goes_on_with_the_same_numbers(draws, pair):
    go_on(draws, pair, 7)
    go_on(draws, pair[:1], 3)
    go_on(draws, [sequence(1, 12, 1), pair[1], pair[0]], 5)


def test_a_round_that_was_abandoned_draws_anew(draws, pair):
    go_on(draws, pair, 2)
    pair[0].attempt += 1
    go_on(draws, pair, 3)


def test_a_round_that_gave_more_than_one_token_skips_the_numbers_between(draws, pair):
    go_on(draws, pair, 2)
    pair[1].tokens += [0, 0, 0]
    go_on(draws, pair, 3)


def test_a_slot_that_is_another_requests_now_gives_nothing_of_the_last_ones(draws):
    go_on(draws, [sequence(0, 11, 5)], 3)
    go_on(draws, [sequence(0, 12, 5)], 3)
