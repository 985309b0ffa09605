"""Stop texts end an answer at the same character however the text was cut, and nothing of them slips out before."""

import random

import pytest

from models.stop import StopMatcher


def let_out(matcher, *pieces):
    """Push pieces; return the text that came out and whether a stop ended it."""
    text = ""
    for piece in pieces:
        out, stopped = matcher.push(piece)
        text += out
        if stopped:
            return text, True
    return text + matcher.flush(), False


def expected(text, stops, include):
    """The definition, by trying every end: the first stop to be complete, the longest of those that end there."""
    for end in range(1, len(text) + 1):
        complete = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end if include else end - max(complete)], True
    return text, False


@pytest.mark.parametrize(
    ("stops", "pieces", "text", "stopped"),
    [
        ([], ["any", "thing"], "anything", False),
        (["END"], ["a END b"], "a ", True),
        (["END"], ["a E", "N", "D b"], "a ", True),
        (["END"], ["a E", "N", "X b"], "a ENX b", False),
        (["aab"], ["aa", "aa", "b"], "aa", True),
        (["abac"], ["abab", "ac"], "ab", True),
        (["\n\n"], ["one\n", "two\n", "\nthree"], "one\ntwo", True),
        (["ö€"], ["zö", "€"], "z", True),
        (["bc", "abcd"], ["abcd"], "a", True),
        (["c", "bc"], ["abc"], "a", True),
        (["late", "a"], ["stay late"], "st", True),
    ],
)
def test_text_goes_out_up_to_the_first_complete_stop(stops, pieces, text, stopped):
    assert let_out(StopMatcher(stops), *pieces) == (text, stopped)


def test_what_may_begin_a_stop_is_held_back_and_nothing_else():
    matcher = StopMatcher(["STOP", "OPEN"])
    assert [matcher.push(piece)[0] for piece in ("xS", "T", "O", "p", "O")] == ["x", "", "", "STOp", ""]
    assert matcher.flush() == "O"


def test_the_stop_itself_goes_out_when_asked_for():
    assert let_out(StopMatcher(["END"], include=True), "a E", "ND b") == ("a END", True)


def test_nothing_comes_after_a_stop():
    matcher = StopMatcher(["."])
    assert matcher.push("a.b") == ("a", True)
    assert (matcher.is_stopped, matcher.push("c"), matcher.flush()) == (True, ("", True), "")


def test_a_stop_that_may_not_end_the_text_is_text():
    matcher = StopMatcher(["aa"])
    assert matcher.push("aa", may_end=False) == ("a", False)
    assert matcher.push("a") == ("", True)


@pytest.mark.parametrize("include", [False, True])
def test_cuts_do_not_matter(include):
    rng = random.Random(5)
    outcomes = set()
    for _ in range(2000):
        text = "".join(rng.choices("ab", k=rng.randint(1, 14)))
        stops = ["".join(rng.choices("ab", k=rng.randint(2, 6))) for _ in range(rng.randint(1, 3))]
        cuts = sorted(rng.choices(range(len(text) + 1), k=3))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)])]
        assert let_out(StopMatcher(stops, include), *pieces) == expected(text, stops, include), (text, stops, pieces)
        outcomes.add(expected(text, stops, include)[1])
    assert outcomes == {True, False}
