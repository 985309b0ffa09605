"""Suffix decoding's own ways; what it shares with all drafters is in test_conformance.py."""

import random

import pytest
import torch

from core.tensors import Commit, DraftAsk, Processing
from drafters.ngram import NGram
from drafters.recent_answers import RecentAnswers
from drafters.suffix import Suffix

PROCESSING = Processing(torch.ones(1), torch.zeros(1, dtype=torch.int64), torch.ones(1), torch.zeros(1), True, False)


def propose(drafter, slot, anchor, position, limit=16):
    drafts = drafter.propose(
        DraftAsk(
            torch.tensor([slot]),
            torch.tensor([anchor]),
            torch.tensor([position]),
            torch.tensor([limit], dtype=torch.int32),
            PROCESSING,
            torch.zeros(1, drafter.spec.max_drafts),
            None,
        )
    )
    return drafts.tokens[0, : int(drafts.lengths[0])].tolist(), drafts.evidence[0]


def proposed(tokens, **options):
    drafter = Suffix(**options)
    drafter.open(0, tokens[:-1], 0)
    return propose(drafter, 0, tokens[-1], len(tokens) - 1)[0]


def tell(drafter, slot, tokens, start=0):
    """Commit all rows but the last token's, which is the anchor."""
    rows, ids = torch.arange(start, len(tokens) - 1), torch.tensor(tokens)
    drafter.extend(
        Commit(torch.tensor([slot]), torch.tensor([0, len(rows)]), rows, ids[rows], ids[rows + 1], None, None)
    )


@pytest.mark.parametrize(
    ("tokens", "options", "expected"),
    [
        ([1, 2, 3, 9, 9, 1, 2, 3], {}, [9, 9, 1]),
        ([1, 2, 3, 9, 9, 1, 2, 3], {"max_spec_factor": 2.0}, [9, 9, 1, 2, 3, 9]),
        ([1, 2, 3, 9, 9, 1, 2, 3], {"max_spec_factor": 0.5}, [9]),
        ([1, 2, 3, 9, 9, 1, 2, 3], {"max_drafts": 2}, [9, 9]),
        ([1, 2, 3, 9, 9, 1, 2, 3], {"max_spec_factor": 0.3}, []),
        ([5, 1, 7, 1, 7, 1, 8, 1], {}, [7]),
        ([5, 6, 1, 8, 6, 1, 7, 1, 7, 5, 6, 1], {}, [8, 6, 1]),
        ([5, 1, 7, 4, 1, 8, 3, 1], {"min_token_prob": 0.6}, []),
        ([1, 2, 3, 4], {}, []),
        ([4], {}, []),
    ],
    ids=["match", "factor", "half", "capped", "none-for-so-short", "most-often", "longest", "rare", "new", "one-token"],
)
def test_it_proposes_what_most_often_followed_the_longest_match(tokens, options, expected):
    assert proposed(tokens, **options) == expected


def test_evidence_is_the_frequency_of_what_followed():
    drafter = Suffix(min_token_prob=0.0)
    drafter.open(0, [1, 2, 1, 2, 1, 3, 1], 0)
    # After 1 came 2 twice and 3 once: (2 + 1) to (1 + 1).
    tokens, evidence = propose(drafter, 0, 1, 6)
    assert tokens == [2]
    assert evidence[0] == pytest.approx(torch.tensor(3 / 2).log())


def test_committed_rows_become_history():
    drafter = Suffix()
    drafter.open(3, [1, 2], 0)
    tell(drafter, 3, [1, 2, 8, 9, 7, 1, 2])
    assert propose(drafter, 3, 2, 6)[0] == [8, 9]


def test_a_prompt_is_read_as_its_rows_are_committed():
    drafter = Suffix()
    drafter.open(0, list(range(100)), 0)
    states = drafter._texts[0].automaton.num_states
    tell(drafter, 0, list(range(11)))
    assert (states, drafter._texts[0].automaton.num_states) == (1, 11)


def answered(drafter, slot, prompt, answer):
    drafter.open(slot, prompt, 0)
    tell(drafter, slot, prompt + answer)
    drafter.release(slot)


def test_answers_of_others_are_looked_through_only_where_that_was_asked_for():
    for recent, expected in ((0, []), (2, [7, 8])):
        drafter = Suffix(recent_answers=recent)
        answered(drafter, 0, [1, 2], [5, 6, 7, 8, 9])
        drafter.open(1, [3, 5], 0)
        assert propose(drafter, 1, 6, 2)[0] == expected


def test_prompts_of_others_are_never_looked_through():
    drafter = Suffix(recent_answers=2)
    answered(drafter, 0, [5, 6, 7, 8], [1, 2])
    drafter.open(1, [3, 5], 0)
    assert propose(drafter, 1, 6, 2)[0] == []


def test_the_own_text_and_answers_of_others_compete_by_what_is_expected_of_them():
    drafter = Suffix(recent_answers=4, min_token_prob=0.0)
    answered(drafter, 0, [0], [4, 5, 1, 2, 9])
    drafter.open(1, [5, 3, 5, 8, 4], 0)
    # The own text knows 5 with one of 3 and 8 after it; others know 4 5, and 1 2 after it.
    assert propose(drafter, 1, 5, 5)[0] == [1, 2]
    drafter.open(2, [4, 5, 7, 7, 4], 0)
    assert propose(drafter, 2, 5, 5)[0] == [7, 7]


def recent(answers, **options):
    made = RecentAnswers(**options)
    for answer in answers:
        made.add(answer)
    return made


def known(answers, tail):
    return bool(answers.follow(tail, 4, 1.0, 0.0).tokens)


def test_at_least_so_many_answers_are_kept_and_never_twice_as_many_more():
    answers = [[10 * i, 10 * i + 1, 10 * i + 2] for i in range(40)]
    for count in range(1, 40):
        kept = [known(recent(answers[:count], num_answers=5), answer[:1]) for answer in answers[:count]]
        assert all(kept[-5:])
        assert sum(kept) <= 10


def test_long_answers_are_bounded_by_their_tokens():
    made = recent(
        [[random.Random(i).randrange(50) for _ in range(300)] for i in range(60)], num_answers=1000, most_tokens=500
    )
    states = made._filling.num_states + made._full.num_states
    assert states <= 2 * 2 * (500 + 300)
    made.add(list(range(100, 10_000)))
    assert made._filling.num_states <= 2 * 500 + 2


def accepted_length(drafter, text, start, width):
    """Tokens per round, bonus included, where the target goes on as `text` does."""
    drafter.open(0, text[: start + 1], 0)
    tell(drafter, 0, text[: start + 1])
    place, rounds = start, 0
    while place < len(text) - 1 - width:
        drafts, _ = propose(drafter, 0, text[place], place, width)
        right = 0
        while right < len(drafts) and drafts[right] == text[place + 1 + right]:
            right += 1
        tell(drafter, 0, text[: place + 2 + right], place)
        place, rounds = place + 1 + right, rounds + 1
    return (place - start) / rounds


def log_lines():
    """A log of six kinds of line that all begin alike and come in the same order again and again."""
    generator = random.Random(3)
    lines = [[1, 2, 3, *(generator.randrange(10, 60) for _ in range(5 + i)), 4] for i in range(6)]
    return [token for _ in range(12) for line in lines for token in line]


def test_on_text_that_a_short_window_mistakes_it_is_accepted_for_longer_than_an_n_gram():
    text = log_lines()
    suffix = accepted_length(Suffix(max_drafts=7), text, 144, 7)
    ngram = accepted_length(NGram(max_drafts=7), text, 144, 7)
    assert suffix == pytest.approx(8.0, abs=0.1)
    assert suffix > 1.2 * ngram
