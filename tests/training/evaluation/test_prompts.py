"""Prompts are read as the service and `specd data prepare` read them."""

import json

import pytest
from tokenizers.processors import TemplateProcessing

from core.errors import ConfigError
from models.tokenizer import Tokenizer
from tests.service.fakes import write_tokenizer
from training.data.lines import Line
from training.evaluation.long_context import lengthen
from training.evaluation.prompts import Prompts
from training.evaluation.task_files import to_conversation

START = 256


@pytest.fixture
def prompts(tmp_path):
    """A tokenizer of bytes that, as Llama's and Gemma's, puts a token of its own before every text."""
    backend = write_tokenizer(tmp_path).backend
    backend.post_processor = TemplateProcessing(single="<eos> $A", special_tokens=[("<eos>", START)])
    backend.save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer(tmp_path).encode("a") == [START, ord("a")]
    return Prompts(Tokenizer(tmp_path), 100)


def asked(tmp_path, **fields):
    return to_conversation(Line(tmp_path / "x.jsonl", 1, json.loads(json.dumps(fields))), every_turn=False)


def test_a_recorded_prompt_has_its_special_tokens_once(prompts, tmp_path):
    assert prompts.encode(asked(tmp_path, prompt="<eos>ab"), ()) == [START, *b"ab"]


@pytest.mark.parametrize("more", [{}, {"answer": "c"}])
def test_a_recorded_prompt_is_asked_in_the_tokens_that_were_recorded(prompts, tmp_path, more):
    conversation = asked(tmp_path, prompt="<eos>ab", prompt_ids=[START, 98, 97], **more)
    assert prompts.encode(conversation, ()) == [START, 98, 97]


def test_plain_text_begins_as_the_tokenizer_begins_texts(prompts, tmp_path):
    assert prompts.encode(asked(tmp_path, text="abcd"), ()) == [START, *b"ab"]


def test_recorded_tokens_of_another_tokenizer_are_refused_with_their_place(prompts, tmp_path):
    with pytest.raises(ConfigError, match=r"x\.jsonl line 1: prompt_ids are of another tokenizer"):
        prompts.make(asked(tmp_path, prompt="a", prompt_ids=[START + 1]), (), 8)


def test_recorded_prompts_are_lengthened_to_what_was_asked(prompts, tmp_path):
    texts = ["<eos>first text. ", "<eos>second text. "]
    recorded = [asked(tmp_path, prompt=text, prompt_ids=prompts.tokenizer.encode(text)[1:]) for text in texts]
    longer = lengthen(prompts, recorded, {0: "", 1: ""}, 24)
    assert [prompts.tokenizer.decode(prompts.encode(each, ()))[-12:] for each in longer] == [
        " first text. "[-12:],
        "second text. "[-12:],
    ]
    assert [len(prompts.encode(each, ())) for each in longer] == [24, 24]
