"""Names to things: late import, helpful refusals, no silent shadowing."""

from importlib.metadata import EntryPoint

import pytest

import core.registry
from core.errors import ConfigError
from core.registry import COMMANDS, DRAFTERS, POLICIES, Registry


@pytest.mark.parametrize("registry", [DRAFTERS, POLICIES], ids=lambda registry: registry.kind)
def test_every_shipped_name_loads(registry):
    for name in registry.names():
        assert callable(registry.load(name))


def test_every_command_is_a_function_of_the_command_line():
    for name, target in COMMANDS.targets().items():
        assert target == f"cli.{'configuration' if name == 'config' else name.replace('-', '_')}:run"


def test_an_unknown_name_lists_the_known_and_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown policy 'confidense'; did you mean 'confidence'\? known: .*fixed"):
        POLICIES.load("confidense")


@pytest.mark.parametrize("target", ["no_such_module:thing", "core.errors:NoSuchError"])
def test_what_cannot_be_imported_is_a_config_error_with_its_target(target):
    with pytest.raises(ConfigError, match=target):
        Registry("thing", {"broken": target}).load("broken")


@pytest.mark.parametrize("target", ["core.errors", ":x", "core.errors:"])
def test_a_target_must_be_module_and_attribute(target):
    with pytest.raises(ConfigError, match="module:attribute"):
        Registry("thing", {"broken": target}).load("broken")


def with_entry_points(monkeypatch, *entries):
    made = [EntryPoint(name, value, "specd.things") for name, value in entries]
    monkeypatch.setattr(core.registry, "entry_points", lambda group: made if group == "specd.things" else [])
    return Registry("thing", {"ours": "core.errors:SpecdError"}, "specd.things")


def test_an_installed_package_adds_a_name(monkeypatch):
    registry = with_entry_points(monkeypatch, ("theirs", "core.errors:ConfigError"))
    assert registry.names() == ["ours", "theirs"]
    assert registry.load("theirs") is ConfigError


def test_a_name_claimed_twice_is_refused(monkeypatch):
    registry = with_entry_points(monkeypatch, ("ours", "core.errors:ConfigError"))
    with pytest.raises(
        ConfigError, match=r"'ours' is claimed twice.*core\.errors:SpecdError.*core\.errors:ConfigError"
    ):
        registry.load("ours")
