"""Drafters and policies of installed packages: chosen in the settings as ours are, held to their own signatures."""

import pytest

from cli.main import main
from cli.parser import make_parser, setting_flags
from core.config import (
    DSparkSettings,
    FixedSettings,
    LoadAdaptiveSettings,
    PluginSettings,
    PolicyPluginSettings,
)
from core.config_file import load_settings, to_toml
from core.errors import ConfigError
from core.plugins import check_plugins, make_plugin
from core.registry import DRAFTERS, POLICIES
from tests.plugins import install


@pytest.fixture(autouse=True)
def installed(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    folder.mkdir()
    install(folder, monkeypatch)


def settings_of(tmp_path, text):
    path = tmp_path / "specd.toml"
    path.write_text(text)
    return load_settings(path, {}, {})[0]


def from_flags(*arguments):
    return load_settings(None, {}, setting_flags(make_parser().parse_args(["serve", *arguments])))[0]


def test_a_registered_name_is_a_kind_and_the_rest_of_the_table_its_options(tmp_path):
    settings = settings_of(tmp_path, '[policy]\nkind = "polite"\nlength = 3\nweights = [[1, 2.5]]')
    assert settings.policy == PolicyPluginSettings("polite", {"length": 3, "weights": [[1, 2.5]]})
    assert make_plugin(settings.policy, POLICIES, {}).weights == [[1, 2.5]]


def test_named_tables_take_them_too(tmp_path):
    settings = settings_of(tmp_path, '[policies.soft]\nkind = "polite"\nlength = 1\n[drafters.again]\nkind = "echo"')
    assert settings.policies == {"soft": PolicyPluginSettings("polite", {"length": 1})}
    assert settings.drafters == {"again": PluginSettings("echo")}


def test_flags_and_environment_choose_them():
    settings = from_flags("--policy", "polite", "--drafter", "echo")
    assert (settings.policy, settings.drafter) == (PolicyPluginSettings("polite"), PluginSettings("echo"))
    settings, origin = load_settings(None, {"SPECD_POLICY__KIND": "polite", "SPECD_POLICY__LENGTH": "2"}, {})
    assert settings.policy.options == {"length": 2}
    assert origin["policy.length"] == "env"


def test_vllms_speculative_config_may_name_a_drafter_as_its_method():
    settings = from_flags("--speculative-config", '{"method": "echo", "num_speculative_tokens": 3}')
    assert (settings.drafter, settings.policy) == (PluginSettings("echo"), FixedSettings(3))
    settings = from_flags("--speculative-config", '{"method": "echo", "enable_adaptive_verification": true}')
    assert settings.policy == LoadAdaptiveSettings()
    with pytest.raises(ConfigError, match="prompt_lookup_max has no meaning for method 'echo'"):
        from_flags("--speculative-config", '{"method": "echo", "prompt_lookup_max": 3}')


def test_settings_with_plugins_load_back_from_toml_to_the_same(tmp_path):
    text = '[policy]\nkind = "polite"\nlength = 3\npatience = inf\n"odd key" = {a = [1, true], "b c" = "x"}'
    settings = settings_of(tmp_path, text)
    assert settings_of(tmp_path, to_toml(settings)) == settings


def test_the_target_is_passed_to_a_drafter_that_asks_for_it():
    echo = make_plugin(PluginSettings("echo", {"max_drafts": 2}), DRAFTERS, {"target": "the target"})
    assert (echo.target, echo.spec.max_drafts) == ("the target", 2)


@pytest.mark.parametrize(
    ("registry", "name", "options", "words"),
    [
        (POLICIES, "polite", {"lenght": 3}, ["unknown setting 'lenght'", "policy 'polite'", "'length'"]),
        (POLICIES, "polite", {}, ["policy 'polite' needs the setting 'length'", "patience"]),
        (POLICIES, "polite", {"length": 0}, ["policy 'polite'", "length must be 1 or more, got 0"]),
        (DRAFTERS, "echo", {"target": "mine"}, ["unknown setting 'target'", "known: max_drafts"]),
    ],
    ids=["unknown", "missing", "refused", "given-by-the-engine"],
)
def test_what_a_class_does_not_take_is_an_error_that_names_it(registry, name, options, words):
    with pytest.raises(ConfigError) as caught:
        make_plugin(PluginSettings(name, options), registry, {"target": None} if registry is DRAFTERS else {})
    for word in words:
        assert word in str(caught.value)


def test_all_tables_are_checked_without_a_model(tmp_path):
    with pytest.raises(ConfigError, match="needs the setting 'length'"):
        check_plugins(settings_of(tmp_path, '[policies.soft]\nkind = "polite"'))
    check_plugins(settings_of(tmp_path, '[policies.soft]\nkind = "polite"\nlength = 1'))


def test_a_redactor_that_nobody_has_is_told_before_anything_is_recorded(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown redactor 'contcts'.*did you mean 'contacts'"):
        check_plugins(settings_of(tmp_path, '[recording]\nfolder = "x"\nredactor = "contcts"'))


def test_config_check_says_what_a_server_would(tmp_path, capsys):
    (tmp_path / "specd.toml").write_text('[policy]\nkind = "polite"\nlenth = 1')
    assert main(["config", "check", "--config", str(tmp_path / "specd.toml")]) == 2
    assert "did you mean 'length'?" in capsys.readouterr().err


def test_an_unknown_kind_lists_those_of_packages_too(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown policy\.kind 'polit'.*did you mean 'polite'"):
        settings_of(tmp_path, '[policy]\nkind = "polit"')
    with pytest.raises(ConfigError, match=r"--drafter.*did you mean 'echo'"):
        from_flags("--drafter", "ecko")


def test_a_date_is_no_setting(tmp_path):
    with pytest.raises(ConfigError, match=r"policy\.length: expected text, a number"):
        settings_of(tmp_path, '[policy]\nkind = "polite"\nlength = 2026-01-01')


def test_without_the_package_the_name_is_unknown(monkeypatch):
    monkeypatch.undo()
    assert from_flags().drafter == DSparkSettings()
    with pytest.raises(ConfigError, match=r"unknown policy\.kind 'polite'"):
        from_flags("--policy", "polite")


def test_a_policy_of_a_package_may_bring_its_drafter_like_any_other(tmp_path):
    path = tmp_path / "specd.toml"
    path.write_text("[policies.soft]\nkind = 'polite'\nlength = 1\ndrafter = 'dspark'\n")
    settings, _ = load_settings(path, {}, {})
    assert settings.policies == {"soft": PolicyPluginSettings("polite", {"length": 1}, "dspark")}
    path.write_text(to_toml(settings))
    assert load_settings(path, {}, {})[0] == settings
