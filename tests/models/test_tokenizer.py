"""A model's tokenizer files are read, or refused with a clear word."""

import json

import pytest

from core.errors import CheckpointError
from models.tokenizer import Tokenizer
from tests.service.fakes import EOS, TEMPLATE, write_tokenizer


def test_text_and_ids_are_each_other_s_inverse(tmp_path):
    tokenizer = write_tokenizer(tmp_path)
    ids = tokenizer.encode("Grüße 🎉")
    assert ids == list("Grüße 🎉".encode())
    assert tokenizer.decode([*ids, EOS]) == "Grüße 🎉"


def test_it_knows_sizes_special_tokens_and_template(tmp_path):
    tokenizer = write_tokenizer(tmp_path)
    assert tokenizer.vocab_size == 257
    assert tokenizer.special_ids == {EOS}
    assert tokenizer.special_tokens == {"eos_token": "<eos>"}
    assert tokenizer.chat_template == TEMPLATE


@pytest.mark.parametrize(
    ("config", "template"),
    [
        ({}, None),
        ({"chat_template": [{"name": "tool", "template": "t"}, {"name": "default", "template": "d"}]}, "d"),
        ({"chat_template": [{"name": "tool", "template": "t"}]}, None),
    ],
)
def test_templates_come_in_several_shapes(tmp_path, config, template):
    write_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert Tokenizer(tmp_path).chat_template == template


def test_a_template_file_wins(tmp_path):
    write_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("from the file")
    assert Tokenizer(tmp_path).chat_template == "from the file"


def test_a_folder_without_tokenizer_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is missing"):
        Tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_broken_file_is_named(tmp_path, name):
    write_tokenizer(tmp_path)
    (tmp_path / name).write_text("{")
    with pytest.raises(CheckpointError, match=name):
        Tokenizer(tmp_path)
