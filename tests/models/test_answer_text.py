"""An answer's text and the token at which a stop text ends it."""

import pytest

from core.types import Sampling
from models.answer_text import AnswerText
from tests.service.fakes import EOS, write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def test_without_stops_there_is_a_piece_for_every_token(tokenizer):
    text = AnswerText(tokenizer, Sampling())
    assert text.add([*"aé".encode(), EOS]) == ("a", "", "é", "")
    assert (text.num_tokens, text.is_stopped, text.tail()) == (4, False, "")


def test_tokens_after_a_stop_are_not_taken(tokenizer):
    text = AnswerText(tokenizer, Sampling(stop=("cd",)))
    assert text.add(b"abcdef") == ("a", "b", "", "")
    assert (text.num_tokens, text.is_stopped) == (4, True)
    assert (text.add(b"gh"), text.tail()) == ((), "")


def test_a_stop_is_found_across_rounds_and_characters(tokenizer):
    text = AnswerText(tokenizer, Sampling(stop=("é€",)))
    first, second, rest = "xé€".encode()[:2], "xé€".encode()[2:4], "xé€".encode()[4:]
    assert [text.add(first), text.add(second), text.is_stopped] == [("x", ""), ("", ""), False]
    assert text.add(rest + b"y") == ("", "")
    assert text.is_stopped


def test_text_held_back_comes_with_the_tail_as_often_as_it_is_asked_for(tokenizer):
    text = AnswerText(tokenizer, Sampling(stop=("bcd",)))
    assert text.add(b"abc") == ("a", "", "")
    assert (text.tail(), text.tail()) == ("bc", "bc")


@pytest.mark.parametrize("min_tokens", [0, 2, 3, 5])
def test_no_stop_counts_before_min_tokens(tokenizer, min_tokens):
    text = AnswerText(tokenizer, Sampling(max_tokens=9, stop=("aa",), min_tokens=min_tokens))
    shown_by_now = "".join(text.add(b"aaaaaaa"))
    assert text.num_tokens == max(2, min_tokens)
    assert shown_by_now == "a" * (text.num_tokens - 2)


def test_a_stream_that_is_taken_over_stops_at_the_same_token(tokenizer):
    sampling = Sampling(stop=("def",), include_stop_str_in_output=True)
    first, heir = AnswerText(tokenizer, sampling), AnswerText(tokenizer, sampling)
    shown = "".join(first.add(b"abcde"))
    heir.add(b"abcde")
    assert shown + "".join(heir.add(b"fgh")) == "abcdef"
    assert heir.num_tokens == 6
