"""What a client sees of an answer: the first token, the gaps, and no credit for loops."""

import pytest

from bench.window import Answer, Window, merge


def test_the_first_arrival_is_a_wait_and_later_ones_are_gaps():
    window, answer = Window(seconds=2.0), Answer(sent_s=10.0, ends_at_loop=False)
    for at_s, tokens in ((10.5, 1), (10.7, 4), (11.3, 2)):
        answer.arrive(window, at_s, tokens)
    assert window.first_token_s == [0.5]
    assert window.gaps_s == pytest.approx([0.2, 0.6])
    assert (window.tokens, window.gap_tokens) == (7, 6)
    assert window.tokens_per_s == 3.5
    assert window.tokens_per_s_per_user == pytest.approx(6 / 0.8)


def test_an_answer_that_repeats_itself_loses_the_repetition():
    window, answer = Window(seconds=1.0), Answer(sent_s=0.0, ends_at_loop=True)
    tokens = [*range(20), *range(12)]
    answer.arrive(window, 0.5, len(tokens))
    assert answer.loops_now(window, tokens)
    assert window.tokens == 20


def test_only_greedy_answers_are_watched():
    window, answer = Window(seconds=1.0), Answer(sent_s=0.0, ends_at_loop=False)
    answer.arrive(window, 0.5, 40)
    assert not answer.loops_now(window, [1] * 40)
    assert window.tokens == 40


def test_clients_side_by_side_add_up_over_the_same_seconds():
    one, other = Window(tokens=3, rounds=2, accepted=1), Window(tokens=5, gaps_s=[0.1], gap_tokens=2, verified=4)
    assert merge([one, other], 2.0) == Window(
        2.0, tokens=8, gaps_s=[0.1], gap_tokens=2, rounds=2, verified=4, accepted=1
    )
