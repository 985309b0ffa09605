"""A model's tokenizer files are read, or refused with a clear word."""

import json

import pytest
from tokenizers import Tokenizer as HubTokenizer
from tokenizers import decoders, models

from core.errors import CheckpointError
from models.tokenizer import Tokenizer
from tests.service.fakes import EOS, TEMPLATE, write_tokenizer


def test_text_and_ids_are_each_other_s_inverse(tmp_path):
    tokenizer = write_tokenizer(tmp_path)
    ids = tokenizer.encode("Grüße 🎉")
    assert ids == list("Grüße 🎉".encode())
    assert tokenizer.decode([*ids, EOS]) == "Grüße 🎉"


def test_every_token_has_bytes_even_where_it_is_no_text(tmp_path):
    tokenizer = write_tokenizer(tmp_path)
    assert [tokenizer.token_bytes(token) for token in range(256)] == [bytes([byte]) for byte in range(256)]
    assert tokenizer.token_bytes(EOS) == b"<eos>"
    assert tokenizer.decode([65, EOS], skip_special_tokens=False) == "A<eos>"


def test_bytes_of_tokenizers_that_fall_back_to_bytes_are_known_too(tmp_path):
    backend = HubTokenizer(models.BPE({"<0xE2>": 0, "▁a": 1}, [], byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer(tmp_path)
    assert [tokenizer.token_bytes(token) for token in (0, 1)] == [b"\xe2", b" a"]


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
