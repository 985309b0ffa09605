"""Settings: layering, origins, and errors that name what came and what would be right."""

from pathlib import Path

import msgspec
import pytest

from core.config import (
    SECTIONS,
    ArmSettings,
    BatchTableSettings,
    ConfidenceSettings,
    DSparkSettings,
    FixedSettings,
    NgramSettings,
    NoDrafterSettings,
    Settings,
    all_drafters,
    all_policies,
    model_name,
    policy_drafters,
)
from core.config_file import load_settings, to_toml
from core.errors import ConfigError
from core.masking import without_secrets

EXPERIMENT = """
[drafters.lookup]
kind = "ngram"
max_drafts = 4

[policies.bold]
kind = "confidence"
threshold = 0.1

[arms.control]
policy = "off"

[arms.treatment]
weight = 3.0
policy = "bold"

[arms.third]
drafter = "lookup"
policy = "load_adaptive"
max_drafts = 2
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "specd.toml"
    path.write_text(text)
    return path


def test_nothing_given_is_the_defaults_and_says_so():
    settings, origin = load_settings(None, {}, {})
    assert settings == Settings()
    assert set(origin.values()) == {"default"}
    assert origin["drafter.kind"] == origin["server.port"] == "default"


def fields_of(section: str, values: dict) -> set[str]:
    return {
        path
        for name, value in values.items()
        for path in (fields_of(f"{section}.{name}", value) if isinstance(value, dict) else {f"{section}.{name}"})
    }


def test_every_field_of_every_section_has_an_origin(tmp_path):
    settings, origin = load_settings(write(tmp_path, EXPERIMENT), {}, {})
    fields = {path for section, values in msgspec.to_builtins(settings).items() for path in fields_of(section, values)}
    assert set(origin) == fields
    assert origin["arms.treatment.policy"] == origin["policies.bold.kind"] == "file"
    assert origin["arms.treatment.drafter"] == origin["policies.bold.cumulative"] == "default"


def test_flags_win_over_environment_over_file_over_defaults(tmp_path):
    path = write(tmp_path, "[server]\nport = 1\nhost = 'a'\n[log]\nlevel = 'debug'\n")
    environ = {"SPECD_SERVER__PORT": "2", "SPECD_SERVER__HOST": "b", "SPECD_SERVER__ALLOW_NO_KEYS": "true"}
    settings, origin = load_settings(path, environ, {"server.port": 3, "server.host": None})
    server = settings.server
    assert (server.port, server.host, settings.log.level) == (3, "b", "debug")
    assert (origin["server.port"], origin["server.host"], origin["log.level"], origin["log.format"]) == (
        "flag",
        "env",
        "file",
        "default",
    )


def test_changing_the_kind_drops_the_fields_of_the_other_kind(tmp_path):
    path = write(tmp_path, "[drafter]\nkind = 'dspark'\npath = 'x'\n[policy]\nkind = 'fixed'\nlength = 3\n")
    settings, _ = load_settings(path, {}, {"drafter.kind": "none", "policy.kind": "confidence"})
    assert settings.drafter == NoDrafterSettings()
    assert settings.policy == ConfidenceSettings()


def test_fields_of_a_lower_layer_stay_when_the_kind_is_the_same(tmp_path):
    path = write(tmp_path, "[drafter]\nkind = 'ngram'\nmax_ngram = 4\n")
    settings, _ = load_settings(path, {}, {"drafter.kind": "ngram", "drafter.max_drafts": 2})
    assert settings.drafter == NgramSettings(max_drafts=2, max_ngram=4)


def test_environment_values_are_toml_scalars_or_plain_strings():
    environ = {
        "SPECD_ENGINE__TARGET": "Qwen/Qwen3-4B",
        "SPECD_POLICY__KIND": "confidence",
        "SPECD_POLICY__THRESHOLD": "0.5",
        "SPECD_POLICY__CUMULATIVE": "false",
        "SPECD_SERVER__MODEL_NAME": '"quoted"',
        "SPECD_DRAFTER__PATH": "123",
        "HOME": "/nowhere",
        "SPECD_QUEUE__REDIS_URL": "",
    }
    settings, _ = load_settings(None, environ, {})
    assert settings.engine.target == "Qwen/Qwen3-4B"
    assert settings.policy == ConfidenceSettings(0.5, cumulative=False)
    assert settings.server.model_name == "quoted"
    assert settings.drafter == DSparkSettings("123")
    assert settings.queue.redis_url is None


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"SPECD_ENGINE__TARGT": "x"}, ["engine.targt", "'target'", "SPECD_ENGINE__TARGT"]),
        ({"SPECD_ENGIN__TARGET": "x"}, ["'engin'", "'engine'"]),
        ({"SPECD_TARGET": "x"}, ["SPECD_TARGET", "SPECD_SECTION__FIELD"]),
        ({"SPECD_ENGINE__MAX_NUM_SEQS": "0"}, ["engine.max_num_seqs", ">= 1", "got 0"]),
        ({"SPECD_ENGINE__MAX_NUM_SEQS": "many"}, ["engine.max_num_seqs", "`int`", "'many'"]),
        ({"SPECD_SERVER__PORT": "70000"}, ["server.port", "<= 65535", "70000"]),
        ({"SPECD_SERVER__PORT": "true"}, ["server.port", "`int`", "True"]),
        ({"SPECD_SERVER__REQUEST_TIMEOUT_S": "nan"}, ["server.request_timeout_s", "nan"]),
        ({"SPECD_SERVER__REQUEST_TIMEOUT_S": "inf"}, ["server.request_timeout_s", "inf"]),
        ({"SPECD_LOG__LEVEL": "loud"}, ["log.level", "'warning'", "'loud'"]),
        ({"SPECD_DRAFTER__KIND": "ngrm"}, ["drafter.kind", "'ngram'", "dspark, eagle3, ngram, none"]),
        ({"SPECD_DRAFTER__MAX_DRAFTS": "3"}, ["drafter.max_drafts", "kind 'dspark'", "path"]),
        ({"SPECD_POLICY__LENGTH": "3"}, ["policy.length", "kind 'load_adaptive'"]),
        ({"SPECD_QUEUE__REDIS_URL": "http://h"}, ["queue.redis_url", "redis://", "http://h"]),
        ({"SPECD_SERVER__ROLE": "gateway"}, ["server.role", "queue.redis_url"]),
        ({"SPECD_ENGINE__MAX_MODEL_LEN": "100000"}, ["engine.kv_cache_tokens", "100000", "65536"]),
        ({"SPECD_DRAFTER__KIND": "ngram", "SPECD_DRAFTER__MIN_NGRAM": "4"}, ["min_ngram", "max_ngram 3"]),
        ({"SPECD_SERVER__KIND": "fast"}, ["unknown setting server.kind", "known: admin, allow_no_keys"]),
        ({"SPECD_ENGINE__VERIFIER": "exact"}, ["engine.verifier", "'coupled'", "'exact'"]),
        ({"SPECD_POLICIES__FAST": "x"}, ["[policies.NAME]", "file only", "SPECD_POLICIES__FAST"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_an_error_names_the_field_what_came_and_what_would_be_right(environ, words):
    with pytest.raises(ConfigError) as caught:
        load_settings(None, environ, {})
    for word in words:
        assert word in str(caught.value)


def test_a_fixed_length_beyond_the_drafter_is_refused():
    flags = {"drafter.kind": "ngram", "drafter.max_drafts": 4, "policy.kind": "fixed", "policy.length": 5}
    with pytest.raises(ConfigError, match=r"policy\.length must be at most the drafter's max_drafts 4, got 5"):
        load_settings(None, {}, flags)
    assert load_settings(None, {}, flags | {"policy.length": 4})[0].policy == FixedSettings(4)


@pytest.mark.parametrize("text", ["[server", "port = 1", "[server]\nport = [1]", "[[server]]"])
def test_a_broken_file_is_a_config_error_that_names_it(tmp_path, text):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=r"specd\.toml"):
        load_settings(path, {}, {})


def test_a_missing_file_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        load_settings(tmp_path / "none.toml", {}, {})


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"drafter.kind": "none", "policy.kind": "off"},
        {"drafter.kind": "ngram", "policy.kind": "fixed", "policy.length": 2},
        {"policy.kind": "load_adaptive", "policy.horizon": 8, "engine.numerics": "batch_invariant"},
        {"engine.target": 'a "quoted"\tname\\ \x7f é', "queue.redis_url": "unix:///run/redis.sock"},
    ],
    ids=["defaults", "none", "ngram", "load_adaptive", "odd-strings"],
)
def test_what_is_written_as_toml_loads_back_to_the_same(tmp_path, flags):
    settings, origin = load_settings(None, {}, flags)
    assert load_settings(write(tmp_path, to_toml(settings)), {}, {})[0] == settings
    assert load_settings(write(tmp_path, to_toml(settings, origin)), {}, {})[0] == settings


def test_a_password_is_never_shown():
    settings, origin = load_settings(None, {}, {"queue.redis_url": "rediss://user:hunter2@host:6379/0"})
    shown = to_toml(without_secrets(settings), origin)
    assert "hunter2" not in shown
    assert "rediss://***@host:6379/0" in shown
    assert "hunter2" in to_toml(settings)


def test_a_password_is_not_in_the_error_about_its_url():
    with pytest.raises(ConfigError) as caught:
        load_settings(None, {}, {"queue.redis_url": "http://user:hunter2@host"})
    assert "hunter2" not in str(caught.value)


def test_the_model_is_called_after_its_folder_unless_named():
    assert model_name(Settings()) == "demo"
    assert model_name(load_settings(None, {}, {"engine.target": "/models/Qwen3-4B/"})[0]) == "Qwen3-4B"
    assert model_name(load_settings(None, {}, {"server.model_name": "mine"})[0]) == "mine"


def test_named_tables_are_read_in_the_order_of_the_file(tmp_path):
    settings, _ = load_settings(write(tmp_path, EXPERIMENT), {}, {})
    assert settings.drafters == {"lookup": NgramSettings(max_drafts=4)}
    assert settings.policies == {"bold": ConfidenceSettings(0.1)}
    assert list(settings.arms.items()) == [
        ("control", ArmSettings(policy="off")),
        ("treatment", ArmSettings(weight=3.0, policy="bold")),
        ("third", ArmSettings(drafter="lookup", policy="load_adaptive", max_drafts=2)),
    ]


def test_named_tables_load_back_to_the_same_in_the_same_order(tmp_path):
    settings, origin = load_settings(write(tmp_path, EXPERIMENT), {}, {})
    for text in (to_toml(settings), to_toml(settings, origin)):
        again, _ = load_settings(write(tmp_path, text), {}, {})
        assert again == settings
        assert list(again.arms) == list(settings.arms)


def test_the_default_drafter_comes_first_under_its_kinds_name(tmp_path):
    settings, _ = load_settings(write(tmp_path, EXPERIMENT), {}, {})
    assert list(all_drafters(settings).items()) == [
        ("dspark", DSparkSettings()),
        ("lookup", NgramSettings(max_drafts=4)),
    ]


def test_the_default_policy_comes_first_and_every_kind_is_there_by_name(tmp_path):
    settings, _ = load_settings(write(tmp_path, EXPERIMENT), {}, {"policy.kind": "fixed", "policy.length": 2})
    policies = all_policies(settings)
    assert list(policies)[:2] == ["fixed", "bold"]
    # A table of lengths is the operator's alone: that kind has no defaults.
    assert set(policies) == {"fixed", "bold", *SECTIONS["policy"]} - {"batch_table"}
    assert policies["fixed"] == FixedSettings(2)
    assert policies["confidence"] == ConfidenceSettings()


def test_a_table_of_lengths_comes_from_file_environment_and_back(tmp_path):
    path = write(tmp_path, "[policy]\nkind = 'batch_table'\nlengths = [[1, 8, 7], [9, 4096, 0]]\n")
    settings, _ = load_settings(path, {}, {})
    assert settings.policy == BatchTableSettings(((1, 8, 7), (9, 4096, 0)))
    assert load_settings(write(tmp_path, to_toml(settings)), {}, {})[0] == settings
    environ = {"SPECD_POLICY__KIND": "batch_table", "SPECD_POLICY__LENGTHS": "[[1, 8, 7], [9, 4096, 0]]"}
    assert load_settings(None, environ, {})[0] == settings


def test_a_policy_may_bring_its_drafter(tmp_path):
    text = "[drafters.lookup]\nkind = 'suffix'\n[policies.chatty]\nkind = 'slo'\ndrafter = 'lookup'\n"
    settings, _ = load_settings(write(tmp_path, text + "[policy]\ndrafter = 'lookup'\n"), {}, {})
    assert policy_drafters(settings) == {"load_adaptive": "lookup", "chatty": "lookup"}
    assert load_settings(write(tmp_path, to_toml(settings)), {}, {})[0] == settings


def test_a_named_policy_may_give_its_kinds_name_other_fields(tmp_path):
    path = write(tmp_path, "[policies.fixed]\nkind = 'fixed'\nlength = 3\n")
    assert all_policies(load_settings(path, {}, {})[0])["fixed"] == FixedSettings(3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[drafters.small]\nmax_drafts = 3", ["drafters.small.kind is missing", "dspark, eagle3, ngram, none"]),
        ("[drafters.small]\nkind = 'ngrm'", ["drafters.small.kind", "'ngram'"]),
        ("[drafters.small]\nkind = 'ngram'\nmax_draft = 3", ["drafters.small.max_draft", "'max_drafts'"]),
        ("[drafters.small]\nkind = 'ngram'\nmin_ngram = 5", ["drafter 'small'", "min_ngram", "max_ngram 3"]),
        ("[drafters.small]\nkind = 'none'", ["drafters.small", "policy 'off'"]),
        ("[drafters.dspark]\nkind = 'dspark'", ["drafters.dspark", "[drafter]", "call it otherwise"]),
        ("[drafters.ngram]\nkind = 'dspark'", ["drafters.ngram", "kind 'dspark'", "rename"]),
        ("[policies.off]\nkind = 'fixed'", ["policies.off", "kind 'fixed'", "rename"]),
        ("[policies.t]\nkind = 'batch_table'", ["policies.t.lengths is missing"]),
        ("[policies.t]\nkind = 'batch_table'\nlengths = [[2, 4, 3]]", ["policy 't'", "the first from 1", "[2, 4, 3]"]),
        ("[policies.t]\nkind = 'batch_table'\nlengths = [[1, 4, 3], [4, 8, 1]]", ["policy 't'", "without overlap"]),
        ("[policies.t]\nkind = 'batch_table'\nlengths = [[1, 4, 65]]", ["policies.t.lengths", "<= 64"]),
        ("[policies.'two words']\nkind = 'fixed'", ["'two words'", "A-Z"]),
        ("[policies.t]\nkind = 'slo'\ndrafter = 'dsparc'", ["policies.t.drafter", "'dsparc'", "'dspark'"]),
        ("[policy]\ndrafter = 'lookup'", ["policy.drafter", "'lookup'", "known: dspark"]),
        (
            "[drafters.n]\nkind = 'suffix'\nmax_drafts = 2\n[policies.t]\nkind = 'fixed'\ndrafter = 'n'",
            ["policies.t.length", "max_drafts 2", "got 7"],
        ),
        (
            "[drafters.m]\nkind = 'suffix'\nmax_drafts = 1\n[arms.a]\npolicy = 'fixed'\ndrafter = 'm'",
            ["arms.a", "max_drafts 1", "got 7"],
        ),
        ("[drafters.small]\nkind = 'draft_model'", ["drafters.small.path is missing"]),
        ("[drafters.s]\nkind = 'suffix'\nmax_spec_factor = 0.0", ["drafters.s.max_spec_factor", "> 0"]),
        ("[policies]\nkind = 'fixed'", ["policies.kind must be a table"]),
        ("policies = 3", ["[policies.NAME]", "3"]),
        ("[polices.fast]\nkind = 'fixed'", ["'polices'", "'policies'"]),
        ("[arms.a]\nweight = 0.0", ["arms.a.weight", "> 0", "0.0"]),
        ("[arms.a]\nshare = 0.5", ["arms.a.share", "weight"]),
        ("[arms.a]\npolicy = 'confident'", ["arms.a.policy", "'confident'", "'confidence'"]),
        ("[arms.a]\ndrafter = 'dsparc'", ["arms.a.drafter", "'dsparc'", "'dspark'"]),
        (
            "[drafters.n]\nkind = 'ngram'\nmax_drafts = 2\n[arms.a]\ndrafter = 'n'\npolicy = 'fixed'",
            ["arms.a", "max_drafts 2", "got 7"],
        ),
    ],
    ids=lambda value: value.replace("\n", " ") if isinstance(value, str) else "",
)
def test_a_wrong_named_table_is_an_error_that_says_which(tmp_path, text, words):
    with pytest.raises(ConfigError) as caught:
        load_settings(write(tmp_path, text), {}, {})
    for word in words:
        assert word in str(caught.value)
