"""Text comes out piece by piece, aligned to tokens, and never with half a character."""

import time

import pytest

from models.detokenize import MAX_HELD, Detokenizer
from tests.service.fakes import EOS, write_tokenizer

TEXTS = ["plain", "Grüße, €5 🎉!", "👨‍👩‍👧 family", "日本語のテキスト", "e\u0301 combining", "\n\t mixed \u00a0", ""]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_join_to_the_text(tokenizer, text):
    detokenizer = Detokenizer(tokenizer)
    assert "".join(detokenizer.pieces(text.encode())) + detokenizer.tail() == text


def test_a_token_inside_a_character_has_an_empty_piece(tokenizer):
    assert Detokenizer(tokenizer).pieces("a€b".encode()) == ("a", "", "", "€", "b")


def test_pieces_do_not_depend_on_how_tokens_are_grouped(tokenizer):
    data = "x🎉é".encode()
    one, many = Detokenizer(tokenizer), Detokenizer(tokenizer)
    assert one.pieces(data) == sum((many.pieces([byte]) for byte in data), ())


def test_a_character_that_never_ends_shows_in_the_tail(tokenizer):
    detokenizer = Detokenizer(tokenizer)
    assert detokenizer.pieces("ok🎉".encode()[:-1]) == ("o", "k", "", "", "")
    assert detokenizer.tail() == "\ufffd"


def test_special_tokens_are_no_text_even_inside_a_character(tokenizer):
    first, last = "é".encode()
    detokenizer = Detokenizer(tokenizer)
    assert detokenizer.pieces([first, EOS, last, EOS]) == ("", "", "é", "")
    assert detokenizer.tail() == ""


def test_broken_bytes_are_let_go_and_text_goes_on(tokenizer):
    detokenizer = Detokenizer(tokenizer)
    pieces = detokenizer.pieces(b"\xff" * (2 * MAX_HELD) + "né".encode())
    assert "".join(pieces) == "\ufffd" * (2 * MAX_HELD) + "né"


def test_endless_broken_bytes_cost_no_more_than_text(tokenizer):
    detokenizer = Detokenizer(tokenizer)
    started = time.perf_counter()
    detokenizer.pieces(b"\xff" * 20000)
    assert time.perf_counter() - started < 2.0
