"""generation_config.json: what is taken of it, what is told to be left, and what no target may mean."""

import json
from typing import get_type_hints

import msgspec
import pytest

from core.errors import CheckpointError
from core.types import PLAIN, Sampling, SamplingDefaults
from models.folders import DEMO_FOLDER
from models.generation_config import NOT_TAKEN, read_generation_config

# As Qwen/Qwen3-4B has it.
QWEN3 = {
    "bos_token_id": 151643,
    "do_sample": True,
    "eos_token_id": [151645, 151643],
    "pad_token_id": 151643,
    "temperature": 0.6,
    "top_k": 20,
    "top_p": 0.95,
    "transformers_version": "4.51.0",
}


@pytest.fixture
def read(tmp_path):
    """Write a file of these keys and read it."""

    def read(**fields):
        (tmp_path / "generation_config.json").write_text(json.dumps(fields), encoding="utf-8")
        return read_generation_config(tmp_path)

    return read


def test_defaults_have_the_fields_the_bounds_and_the_plain_values_of_requests():
    bounds, requests = (get_type_hints(one, include_extras=True) for one in (SamplingDefaults, Sampling))
    assert bounds.items() <= requests.items()
    assert msgspec.to_builtins(PLAIN).items() <= msgspec.to_builtins(Sampling()).items()


def test_a_published_file_says_how_to_draw(read):
    told = read(**QWEN3)
    assert (told.defaults, told.not_taken) == (SamplingDefaults(0.6, 0.95, 20), ())


def test_every_default_is_taken(read):
    fields = {"temperature": 0.5, "top_p": 0.8, "top_k": 7, "min_p": 0.1, "repetition_penalty": 1.1}
    assert read(**fields).defaults == SamplingDefaults(**fields)


def test_without_a_file_or_with_nothing_in_it_draws_are_plain(read, tmp_path):
    assert read_generation_config(tmp_path).defaults == PLAIN
    assert read(temperature=None, top_k=None, eos_token_id=2).defaults == PLAIN


def test_the_demo_target_is_answered_at_a_lower_temperature():
    told = read_generation_config(DEMO_FOLDER / "target")
    assert (told.defaults, told.not_taken) == (SamplingDefaults(temperature=0.7), ())


def test_do_sample_is_not_looked_at(read):
    assert read(do_sample=False, temperature=0.6).defaults.temperature == 0.6
    assert read(do_sample=False).defaults == PLAIN


@pytest.mark.parametrize("value", [0, -1])
def test_no_top_k_has_two_spellings(read, value):
    assert read(top_k=value).defaults == PLAIN


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 5),
        ("temperature", "0.6"),
        ("temperature", True),
        ("temperature", float("nan")),
        ("top_p", 0),
        ("top_p", 1.5),
        ("top_k", -2),
        ("top_k", 20.5),
        ("min_p", [0.1]),
        ("repetition_penalty", 0.0),
    ],
)
def test_a_value_that_no_request_could_have_is_refused_by_file_and_key(read, tmp_path, name, value):
    with pytest.raises(CheckpointError) as refused:
        read(**{"top_p": 0.9, name: value})
    assert str(refused.value).startswith(f"{tmp_path / 'generation_config.json'}: {name}: Expected `")
    assert f"got {value!r}; correct it" in str(refused.value)


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_a_file_that_is_no_object_is_refused_by_name(tmp_path, text):
    (tmp_path / "generation_config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"generation_config\.json (is not valid JSON|must hold a JSON object)"):
        read_generation_config(tmp_path)


def test_what_would_change_answers_and_is_not_taken_is_told(read):
    told = read(no_repeat_ngram_size=3, temperature=0.6, max_new_tokens=512, use_cache=True, suppress_tokens=[3])
    assert told.not_taken == ("no_repeat_ngram_size", "max_new_tokens", "suppress_tokens")


def test_what_asks_for_nothing_is_not_told(read):
    assert [name for name, values in NOT_TAKEN.items() for value in values if read(**{name: value}).not_taken] == []
