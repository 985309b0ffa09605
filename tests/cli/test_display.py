"""What a user sees of an answer: which tokens were drafted, and numbers that add up."""

import io

import pytest
from rich.console import Console

from cli.display import Tally, show_answer
from client.wire import Chunk, Final, Usage, WireError
from core.errors import SpecdError
from core.types import FinishReason

CHUNKS = (
    Chunk((5,), ("a[b]",)),
    Chunk((6, 7, 8), (" :smile: 1", "2", "\n"), verified=4, num_drafts=2),
)
DONE = Final(FinishReason.STOP, Usage(3, 4), tail="!")


async def stream(*events):
    for event in events:
        yield event


def console(**options) -> Console:
    return Console(file=io.StringIO(), width=10, **options)


def test_the_text_is_shown_as_it_is():
    plain = console()
    text, _ = show_answer(plain, stream(*CHUNKS, DONE))
    assert text == "a[b] :smile: 12\n!"
    assert plain.file.getvalue() == text


def test_accepted_drafts_are_coloured_and_the_target_s_own_token_is_not():
    coloured = console(force_terminal=True, color_system="standard", no_color=False)
    show_answer(coloured, stream(*CHUNKS, DONE))
    assert coloured.file.getvalue() == "a[b]\x1b[32m :smile: 1\x1b[0m\x1b[32m2\x1b[0m\n!"


def test_no_color_is_honoured(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    plain = console(force_terminal=True)
    show_answer(plain, stream(*CHUNKS, DONE))
    assert "\x1b[32m" not in plain.file.getvalue()


def test_the_tally_counts_tokens_steps_and_verified_drafts():
    _, tally = show_answer(console(), stream(*CHUNKS, DONE))
    assert (tally.tokens, tally.steps, tally.verified) == (4, 2, 4)
    assert (tally.accepted_len, tally.verify_len) == (2.0, 2.0)


def test_an_empty_answer_has_numbers_too():
    assert str(Tally(0, 0, 0, 0.0)) == "0 tokens in 0.00 s, 0 tokens/s, accepted length 0.00, verify length 0.00"


def test_a_failed_answer_says_why():
    failed = Final(FinishReason.ERROR, Usage(3, 0), error=WireError("out of blocks"))
    with pytest.raises(SpecdError, match="the answer failed: out of blocks"):
        show_answer(console(), stream(failed))


def test_a_stream_that_breaks_off_is_not_an_answer():
    with pytest.raises(SpecdError, match="ended before the answer"):
        show_answer(console(), stream(*CHUNKS))
