"""The suffix automaton against brute force over all substrings."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drafters.suffix_automaton import MOST_COUNTED, ROOT, SuffixAutomaton

# Few letters: everything repeats, and states are split all the time.
TEXTS = st.lists(st.integers(0, 2), max_size=40)


def made(texts, **options):
    automaton = SuffixAutomaton(**options)
    for text in texts:
        automaton.begin_text()
        automaton.extend(text)
    return automaton


def occurrences(texts, part):
    return sum(text[i : i + len(part)] == part for text in texts for i in range(len(text) - len(part) + 1))


def longest_suffix(tokens, is_good):
    """The longest proper suffix of tokens that is good, [] if none is."""
    return next((tokens[i:] for i in range(1, len(tokens)) if is_good(tokens[i:])), [])


@given(TEXTS)
def test_the_match_is_the_longest_suffix_that_occurs_earlier(text):
    expected = longest_suffix(text, lambda part: occurrences([text], part) > 1)
    assert made([text]).match[1] == len(expected)


@given(st.lists(TEXTS, min_size=1, max_size=4), TEXTS)
def test_finding_returns_the_longest_suffix_that_occurs_in_any_text(texts, tokens):
    expected = longest_suffix([9, *tokens], lambda part: occurrences(texts, part) > 0)
    assert made(texts).find(tokens)[1] == len(expected)


def check_continuation(texts, automaton, state, matched):
    """Walk a continuation by brute force: at each step one of the most frequent, with its odds by Laplace's rule."""
    found = automaton.follow(state, limit=12)
    letters, path, expected = range(3), 1.0, 0.0
    for token, odds in zip(found.tokens, found.odds, strict=True):
        if not any(occurrences(texts, [*matched, each]) for each in letters):
            matched = longest_suffix(matched, lambda part: any(occurrences(texts, [*part, each]) for each in letters))
        counts = [occurrences(texts, [*matched, each]) for each in letters]
        best, total = max(counts), sum(counts)
        assert counts[token] == best > 0
        assert odds == pytest.approx(math.log((best + 1) / (total - best + 1)))
        path *= best / total
        expected += path
        matched = [*matched, token]
    assert found.expected == pytest.approx(expected)
    if len(found.tokens) < 12:
        # It ended where nothing of the match was ever followed by anything.
        assert not any(occurrences(texts, [part, each]) for part in matched[-1:] for each in letters)


@given(TEXTS)
def test_a_match_goes_on_as_its_occurrences_most_often_did(text):
    automaton = made([text])
    state, length = automaton.match
    check_continuation([text], automaton, state, text[len(text) - length :])


@given(st.lists(TEXTS, min_size=1, max_size=4), TEXTS)
def test_texts_are_counted_together(texts, tokens):
    automaton = made(texts)
    state, length = automaton.find(tokens)
    check_continuation(texts, automaton, state, tokens[len(tokens) - length :])


@given(TEXTS, st.integers(0, 40))
def test_it_does_not_matter_in_how_many_parts_a_text_comes(text, cut):
    whole, parts = made([text]), SuffixAutomaton()
    parts.extend(text[:cut])
    parts.extend(text[cut:])
    assert parts.match == whole.match
    assert parts.follow(parts.match[0], 12) == whole.follow(whole.match[0], 12)


@given(TEXTS)
def test_a_full_count_is_the_least_of_the_count_and_the_cap(text):
    cap = 3
    automaton = made([text], most_counted=cap)
    for letter in range(3):
        state, _ = automaton.find([letter])
        follows = [min(occurrences([text], [letter, each]), cap) for each in range(3)]
        found = automaton.follow(state, 1)
        if state != ROOT and sum(follows):
            assert found.odds[0] == pytest.approx(math.log((max(follows) + 1) / (sum(follows) - max(follows) + 1)))


@given(TEXTS)
def test_states_are_fewer_than_twice_the_tokens(text):
    assert made([text]).num_states <= max(2 * len(text), 2)


def test_a_path_ends_before_its_frequency_falls_below_the_least():
    # After 1 came 2 in three of four, after 1 2 came 3 in two of three.
    automaton = made([[1, 2, 3, 1, 2, 3, 1, 2, 4, 1, 5]])
    state, _ = automaton.find([1])
    assert automaton.follow(state, 2).tokens == [2, 3]
    assert automaton.follow(state, 2, min_probability=0.51).tokens == [2]
    assert automaton.follow(state, 2, min_probability=0.76).tokens == []


def test_a_periodic_text_goes_on_for_ever():
    automaton = made([[1, 2, 3] * 4])
    assert automaton.follow(automaton.match[0], 10).tokens == [1, 2, 3, 1, 2, 3, 1, 2, 3, 1]


def test_a_token_costs_at_most_so_many_counts_however_often_the_text_repeats():
    counted = SuffixAutomaton()
    steps = []

    class Counting(list):
        def __setitem__(self, place, value):
            steps.append(place)
            super().__setitem__(place, value)

    counted._count = Counting(counted._count)
    counted.extend([7] * 2000)
    assert len(steps) <= 2000 * MOST_COUNTED
