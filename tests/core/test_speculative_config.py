"""vLLM's --speculative-config: what is honoured becomes settings of ours, everything else is refused by name."""

import json

import pytest

from core.config import (
    BatchTableSettings,
    DFlashSettings,
    DraftModelSettings,
    DSparkSettings,
    Eagle3Settings,
    FixedSettings,
    LoadAdaptiveSettings,
    NgramSettings,
    NoDrafterSettings,
    OffSettings,
    SuffixSettings,
)
from core.config_file import load_settings
from core.errors import ConfigError
from core.speculative_config import speculative_flags

PER_BATCH = "num_speculative_tokens_per_batch_size"


def settings_of(**fields):
    settings, _ = load_settings(None, {}, speculative_flags(json.dumps(fields)))
    return settings.drafter, settings.policy


def test_ngram_verifies_that_many_drafts_as_vllm_does():
    given = {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 4, "prompt_lookup_min": 2}
    assert settings_of(**given) == (NgramSettings(max_drafts=5, max_ngram=4, min_ngram=2), FixedSettings(5))


@pytest.mark.parametrize(
    ("lookup", "window"),
    [({}, (5, 5)), ({"prompt_lookup_max": 3}, (3, 3)), ({"prompt_lookup_min": 2}, (2, 2))],
    ids=["neither", "max", "min"],
)
def test_a_bound_of_prompt_lookup_left_out_is_what_it_is_for_vllm(lookup, window):
    drafter, _ = settings_of(method="ngram", num_speculative_tokens=5, **lookup)
    assert (drafter.min_ngram, drafter.max_ngram) == window


def test_the_method_may_be_given_as_the_model():
    assert settings_of(model="ngram", num_speculative_tokens=3)[0] == NgramSettings(3, 5, 5)


def test_dspark_is_a_folder_and_how_much_to_verify():
    given = {"method": "dspark", "model": "/m/d", "num_speculative_tokens": 4}
    assert settings_of(**given) == (DSparkSettings("/m/d"), FixedSettings(4))


def test_suffix_is_what_was_said_of_it_and_keeps_no_answers_that_nobody_asked_for():
    assert settings_of(method="suffix") == (SuffixSettings(recent_answers=0), LoadAdaptiveSettings())
    given = {"max_spec_factor": 2.0, "min_token_prob": 0.2, "max_cached_requests": 50}
    told = {f"suffix_decoding_{name}": value for name, value in given.items()}
    assert settings_of(method="suffix", num_speculative_tokens=9, **told) == (
        SuffixSettings(max_drafts=9, max_spec_factor=2.0, min_token_prob=0.2, recent_answers=50),
        FixedSettings(9),
    )


def test_a_draft_model_is_a_folder_and_how_much_to_draft():
    given = {"method": "draft_model", "model": "/m/small", "num_speculative_tokens": 4}
    assert settings_of(**given) == (DraftModelSettings("/m/small", 4), FixedSettings(4))
    assert settings_of(enable_adaptive_verification=True, **given)[1] == LoadAdaptiveSettings()


@pytest.mark.parametrize(("method", "settings"), [("dflash", DFlashSettings), ("eagle3", Eagle3Settings)])
def test_a_checkpoint_is_a_model_at_a_revision(method, settings):
    given = {"method": method, "model": "owner/name", "revision": "v1.0", "num_speculative_tokens": 3}
    assert settings_of(**given) == (settings("owner/name", "v1.0"), FixedSettings(3))


def test_without_a_number_the_policy_stays_what_it_is():
    assert "policy.kind" not in speculative_flags('{"method": "dspark", "model": "/m/d"}')


def test_adaptive_verification_is_the_load_adaptive_policy():
    given = {"method": "dspark", "model": "/m/d", "enable_adaptive_verification": True}
    assert settings_of(**given) == (DSparkSettings("/m/d"), LoadAdaptiveSettings())


def test_a_length_per_batch_size_is_the_batch_table():
    table = [[17, 64, 9], [1, 16, 4], [65, 512, 0]]
    given = {"method": "ngram", "num_speculative_tokens": 5, "num_speculative_tokens_per_batch_size": table}
    assert settings_of(**given)[1] == BatchTableSettings(((1, 16, 4), (17, 64, 5), (65, 512, 0)))


def test_none_is_plain_decoding():
    assert settings_of(method="none") == (NoDrafterSettings(), OffSettings())


def test_null_and_what_specd_does_anyway_ask_for_nothing():
    extra = {"draft_tensor_parallel_size": 1, "rejection_sample_method": "standard", "quantization": None}
    assert settings_of(method="ngram", num_speculative_tokens=2, **extra)[0] == NgramSettings(2, 5, 5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", ["not valid JSON"]),
        ("[]", ["a JSON object"]),
        ("{}", ["needs a method", "dspark, dflash, eagle3, draft_model, ngram, suffix, none"]),
        ('{"method": "eagle"}', ["'eagle' is not built", "dspark, dflash, eagle3, draft_model, ngram, suffix, none"]),
        ('{"method": "eagle3"}', ["'eagle3' needs model", "Hub id"]),
        ('{"method": "eagle3", "model": "x", "code_revision": "y"}', ["code_revision is not supported"]),
        ('{"method": "ngram", "num_speculative_tokens": 3, "revision": "y"}', ["revision has no meaning", "'ngram'"]),
        ('{"method": "ngrm"}', ["unknown method", "did you mean 'ngram'"]),
        ('{"method": ["ngram"]}', ["unknown method"]),
        ('{"method": "ngram"}', ["needs num_speculative_tokens"]),
        ('{"method": "dspark"}', ["needs model"]),
        ('{"method": "draft_model", "num_speculative_tokens": 3}', ["'draft_model' needs model"]),
        ('{"method": "draft_model", "model": "/m"}', ["'draft_model' needs num_speculative_tokens"]),
        ('{"method": "suffix", "suffix_decoding_max_tree_depth": 24}', ["max_tree_depth is not supported", "24"]),
        (
            '{"method": "ngram", "num_speculative_tokens": 3, "suffix_decoding_min_token_prob": 0.1}',
            ["suffix_decoding_min_token_prob has no meaning", "'ngram'"],
        ),
        ('{"method": "ngram", "num_speculative_token": 3}', ["unknown field", "'num_speculative_tokens'"]),
        ('{"method": "ngram", "num_speculative_tokens": 3, "model": "/m"}', ["model has no meaning", "'ngram'"]),
        ('{"method": "none", "num_speculative_tokens": 3}', ["num_speculative_tokens has no meaning", "'none'"]),
        (
            '{"method": "dspark", "model": "/m", "prompt_lookup_max": 3}',
            ["prompt_lookup_max has no meaning", "'dspark'"],
        ),
        (
            '{"method": "ngram", "num_speculative_tokens": 3, "draft_tensor_parallel_size": 2}',
            ["draft_tensor_parallel_size is not supported", "2"],
        ),
        (
            '{"method": "ngram", "num_speculative_tokens": 3, "draft_tensor_parallel_size": true}',
            ["draft_tensor_parallel_size is not supported"],
        ),
        (
            '{"method": "ngram", "num_speculative_tokens": 3, "num_speculative_tokens_per_batch_size": [[1, 2]]}',
            ["num_speculative_tokens_per_batch_size must be rows of [first, last, tokens]", "[[1, 2]]"],
        ),
        (
            json.dumps(
                {"method": "dspark", "model": "/m", "enable_adaptive_verification": True, PER_BATCH: [[1, 2, 3]]}
            ),
            ["two policies"],
        ),
        (
            '{"method": "dspark", "model": "/m", "num_speculative_tokens": 3, "enable_adaptive_verification": true}',
            ["leave num_speculative_tokens out"],
        ),
        (
            '{"method": "dspark", "model": "/m", "enable_adaptive_verification": 1}',
            ["enable_adaptive_verification must be a boolean"],
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(text, words):
    with pytest.raises(ConfigError) as caught:
        speculative_flags(text)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("number", [0, 65, "three", 2.5])
def test_a_number_out_of_bounds_is_refused_as_any_setting_is(number):
    with pytest.raises(ConfigError, match=r"drafter\.max_drafts|policy\.length"):
        settings_of(method="ngram", num_speculative_tokens=number)
