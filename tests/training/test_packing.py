"""Tokenizer and rows: special tokens, single digits, whole documents, full rows."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from training.chatml import CHAT_TEMPLATE, SPECIAL_TOKENS, render_prompt
from training.packing import (
    Document,
    LibraryStream,
    Mixture,
    RowStream,
    encode_library,
    encode_session,
    first_answers,
    stack,
)
from training.tasks.sessions import sessions
from training.tokenizer import save_tokenizer

DEMO = Path(__file__).parents[2] / "models" / "demo" / "target" / "tokenizer.json"


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_file(str(DEMO))


def test_special_tokens_come_first(tokenizer):
    assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3]


def test_digits_stand_alone(tokenizer):
    assert tokenizer.encode("x = 1234").tokens[-4:] == ["1", "2", "3", "4"]


def test_any_text_survives_the_round_trip(tokenizer):
    text = "def f():\n\treturn 'ä✓'  # 12.5\r\n"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_the_shipped_template_renders_as_training_does():
    jinja2 = pytest.importorskip("jinja2")
    messages = (("system", "Be brief."), ("user", "Hi\nthere"))
    turns = [{"role": role, "content": content} for role, content in messages]
    rendered = jinja2.Template(CHAT_TEMPLATE).render(messages=turns, add_generation_prompt=True)
    assert rendered == render_prompt(messages)


def test_the_saved_config_names_the_end_token(tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path, 2048)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["eos_token"] == "<|im_end|>"


def test_rows_are_full_and_reproducible(tokenizer):
    library = encode_library(tokenizer, ["import os\n" * 200])
    rows = RowStream(tokenizer, library, 256, 3, Mixture()).batch(4)
    again = RowStream(tokenizer, library, 256, 3, Mixture()).batch(4)
    assert rows.tokens.shape == rows.documents.shape == rows.weights.shape == (4, 256)
    assert rows.tokens.equal(again.tokens)


def test_shares_of_the_mixture_are_kept(tokenizer):
    library = encode_library(tokenizer, ["import os\n" * 2000])
    rows = RowStream(tokenizer, library, 512, 0, Mixture(0.3, 0.2, 0.1, 0.1)).batch(60)
    prompts = (rows.tokens == 1).sum().item()
    answers = (rows.weights == 1).float().mean().item()
    assert prompts > 0
    assert 0.6 < answers < 0.95


def test_prompts_weigh_less_and_first_tokens_nothing():
    rows = stack([[Document([5, 6, 7, 8], 2), Document([9, 10])]])
    assert rows.weights.tolist()[0] == pytest.approx([0.0, 0.2, 1.0, 1.0, 0.0, 1.0])
    assert rows.documents.tolist() == [[0, 0, 0, 0, 1, 1]]


def test_library_pieces_never_cross_a_file():
    stream = LibraryStream([np.arange(5), np.arange(100, 103)], seed=0)
    pieces = stream.take(20)
    assert sum(map(len, pieces)) == 20
    assert all(piece.max() < 100 or piece.min() >= 100 for piece in pieces)


def test_a_session_is_what_serving_renders_and_all_its_answers_are_learnt(tokenizer):
    chosen = next(session for session in sessions(0, "train") if len(session) > 2)
    document = encode_session(tokenizer, chosen)
    weights = stack([[document]]).weights[0]
    learnt = [token for token, weight in zip(document.ids, weights.tolist(), strict=True) if weight == 1.0]
    assert tokenizer.decode(learnt, skip_special_tokens=False) == "".join(
        f"{task.answer}<|im_end|>\n" for task in chosen
    )
    messages = []
    for task in chosen:
        messages += [*task.messages, ("assistant", task.answer)]
    assert document.ids == tokenizer.encode(render_prompt(messages).removesuffix("<|im_start|>assistant\n")).ids


def test_a_session_that_does_not_fit_ends_with_one_of_its_answers():
    session = Document(list(range(20)), 3, ((6, 9), (12, 15)))
    assert first_answers(session, 20) == session
    assert first_answers(session, 19) == Document(list(range(12)), 3, ((6, 9),))
    assert first_answers(session, 11) == Document(list(range(6)), 3)
    assert first_answers(session, 5) is None
