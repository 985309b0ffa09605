"""Modes by name: what each loads, and how a wrong name is refused."""

import pytest

from bench.modes import DEFAULT_MODES, make_modes, mode_settings
from core.config import (
    ConfidenceSettings,
    DSparkSettings,
    EngineSettings,
    FixedSettings,
    LoadAdaptiveSettings,
    NgramSettings,
    NoDrafterSettings,
    OffSettings,
)
from core.errors import ConfigError
from paths import FIXTURES

ENGINE = EngineSettings(max_num_seqs=3)


def test_off_loads_no_drafter():
    settings = mode_settings("off", "dspark", ENGINE)
    assert (settings.drafter, settings.policy, settings.engine) == (NoDrafterSettings(), OffSettings(), ENGINE)


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("fixed:3", FixedSettings(3)),
        ("fixed", FixedSettings()),
        ("confidence", ConfidenceSettings()),
        ("confidence:0.5", ConfidenceSettings(0.5)),
        ("load_adaptive", LoadAdaptiveSettings()),
    ],
)
def test_a_policy_is_named_with_the_value_it_is_known_by(name, policy):
    settings = mode_settings(name, "dspark", ENGINE)
    assert (settings.policy, settings.drafter) == (policy, DSparkSettings())


def test_a_mode_may_name_its_own_drafter():
    folder = str(FIXTURES / "dspark_vanilla")
    assert mode_settings("confidence@ngram", "dspark", ENGINE).drafter == NgramSettings()
    assert mode_settings(f"fixed:1@{folder}", "ngram", ENGINE).drafter == DSparkSettings(folder)
    assert mode_settings("off@dspark", "ngram", ENGINE).drafter == DSparkSettings()


def test_the_default_modes_are_modes():
    assert [mode.name for mode in make_modes(DEFAULT_MODES, "dspark", ENGINE)] == list(DEFAULT_MODES)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("fxed:3", "unknown mode 'fxed:3'; did you mean 'fixed'"),
        ("off:1", "'off' takes none"),
        ("fixed:many", "makes no settings"),
        ("fixed:0", "makes no settings"),
        ("confidence@nowhere", "drafter must be a kind, a checkpoint folder or a Hub id, got 'nowhere'"),
        ("fixed:8@ngram", "max_drafts"),
    ],
)
def test_a_wrong_mode_is_refused(name, reason):
    with pytest.raises(ConfigError, match=reason):
        mode_settings(name, "dspark", ENGINE)


def test_a_mode_is_measured_once():
    with pytest.raises(ConfigError, match="once"):
        make_modes(["off", "off"], "dspark", ENGINE)
