"""Loops are seen while an answer arrives, where the whole answer would show them."""

from hypothesis import given
from hypothesis import strategies as st

from bench.loops import LoopWatch
from core.repetition import LOOP_LEN, loop_start


def start_seen(tokens, chunk):
    watch = LoopWatch()
    for first in range(0, len(tokens), chunk):
        start = watch.add(tokens[first : first + chunk])
        if start is not None:
            return start
    return len(tokens)


@given(
    st.lists(st.integers(0, 3), max_size=30),
    st.lists(st.integers(0, 9), min_size=1, max_size=20),
    st.integers(1, 4),
    st.integers(1, 9),
)
def test_a_loop_is_found_where_the_whole_text_has_it_however_the_tokens_arrive(head, body, times, chunk):
    text = head + body * times
    assert start_seen(text, chunk) == loop_start(text)


def test_a_text_without_repetition_has_no_loop():
    assert LoopWatch().add(range(100)) is None


def test_twelve_tokens_again_are_a_loop_and_eleven_are_not():
    assert LoopWatch().add([*range(LOOP_LEN), *range(LOOP_LEN)]) == LOOP_LEN
    assert LoopWatch().add([*range(LOOP_LEN - 1), *range(LOOP_LEN - 1)]) is None
