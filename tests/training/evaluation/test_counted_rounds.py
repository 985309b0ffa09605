"""Which rounds count, and which of their drafts were judged."""

import numpy as np
import pytest

from tests.training.evaluation.traces import G, answer
from training.evaluation.counted_rounds import counted_rounds


def test_every_whole_round_of_a_sampled_answer_counts():
    found = counted_rounds([answer([(0, 1), (3, 4), (2, 3)])], G, is_greedy=False)
    assert found.rounds.tokens.tolist() == [1, 4, 3]
    assert found.rounds.accepted.tolist() == [0, 3, 2]
    assert found.rounds.judged.tolist() == [3, 3, 3]
    # The prompt has 10 tokens, the prefill gave one.
    assert found.rounds.position.tolist() == [11, 12, 16]
    assert found.share == 1.0


def test_a_round_without_room_for_all_drafts_does_not_count():
    found = counted_rounds([answer([(0, 1), (2, 3)], asked=[3, 2])], G, is_greedy=False)
    assert found.rounds.tokens.tolist() == [1]
    assert found.share == pytest.approx(1 / 4)


def test_a_round_cut_by_an_accepted_end_is_judged_up_to_it_and_gives_no_bonus():
    (round_,) = counted_rounds([answer([(3, 2)])], G, is_greedy=False).rounds.of(np.array([0])).tokens
    found = counted_rounds([answer([(3, 2)])], G, is_greedy=False).rounds
    assert (round_, found.accepted.tolist(), found.judged.tolist()) == (2, [2], [2])


def test_an_end_as_the_last_accepted_draft_is_a_cut_too():
    found = counted_rounds([answer([(2, 2)])], G, is_greedy=False).rounds
    assert (found.tokens.tolist(), found.accepted.tolist(), found.judged.tolist()) == ([2], [2], [2])


def test_greedy_answers_count_up_to_their_first_repetition():
    once = list(range(20))
    looping = answer([(0, 1)] * 20 + [(3, 4)] * 5, tokens=[99, *once, *once])
    assert counted_rounds([looping], G, is_greedy=True).rounds.tokens.tolist() == [1] * 20
    assert counted_rounds([looping], G, is_greedy=True).share == pytest.approx(0.5)
    assert len(counted_rounds([looping], G, is_greedy=False).rounds) == 25


def test_no_answers_have_no_rounds():
    found = counted_rounds([], G, is_greedy=False)
    assert (len(found.rounds), found.rounds.width, found.share) == (0, G, 0.0)
