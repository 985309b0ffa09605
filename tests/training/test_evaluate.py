"""Evaluation: what counts as a round, and that loops do not count."""

import pytest

from core.types import Emission
from engine.completion import Completion
from training.accepted_length import accepted_length


def completion(*rounds):
    """Each round is (drafts accepted, token ids)."""
    done = Completion()
    for accepted, ids in rounds:
        done.add(Emission("0", tuple(ids), verified=3, accepted=accepted, num_draft_tokens=min(accepted, len(ids))))
    return done


def test_the_token_of_the_prefill_is_no_round():
    done = completion((0, [1]), (3, [2, 3, 4, 5]), (0, [6]), (2, [7, 8]))
    measured = accepted_length([done])
    assert measured.num_rounds == 3
    assert measured.mean.estimate == pytest.approx(7 / 3)
    assert measured.survival == pytest.approx((2 / 3, 2 / 3, 1 / 3))
    assert measured.before_loops == pytest.approx(7 / 8)


def test_every_prompt_weighs_the_same():
    long = completion((0, [0]), *((0, [i]) for i in range(1, 30)))
    short = completion((0, [0]), (3, [1, 2, 3, 4]))
    assert accepted_length([long, short]).mean.estimate == pytest.approx((1 + 4) / 2)


def test_rounds_inside_a_loop_do_not_count():
    loop = list(range(20))
    done = completion((0, [99]), *((0, [token]) for token in loop), *((3, loop[i : i + 4]) for i in range(0, 20, 4)))
    measured = accepted_length([done])
    assert measured.num_rounds == 20
    assert measured.mean.estimate == 1.0
