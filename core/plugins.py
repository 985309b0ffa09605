"""Drafters and policies of installed packages: their classes by name, made from what the settings say of them.

A table whose kind is a name in the entry-point group `specd.drafters` or `specd.policies` is handed to the class as
keyword arguments. Its signature is the schema: what it does not name is refused, and what it demands must be there.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from core.config import PluginSettings, Settings, all_drafters, all_policies, nearest
from core.errors import ConfigError
from core.registry import DRAFTERS, POLICIES, REDACTORS, Registry

# What the engine itself passes to a class that asks for it.
GIVEN = {DRAFTERS.kind: ("target",), POLICIES.kind: ()}


def make_plugin(settings: PluginSettings, registry: Registry, given: Mapping[str, object]) -> Any:
    """Return the object that the settings describe; of `given`, its class gets what its signature names.

    Raises ConfigError if the class cannot be loaded, does not take the settings, or refuses their values.
    """
    make = registry.load(settings.name)
    parameters = _parameters(make, settings, registry)
    extra = {name: value for name, value in given.items() if name in parameters}
    try:
        return make(**settings.options, **extra)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{registry.kind} {settings.name!r} does not take its settings: {error}") from error


def check_plugins(settings: Settings) -> None:
    """Load the classes of all plug-ins in the settings; raises ConfigError for what they would not take."""
    if settings.recording.redactor is not None:
        REDACTORS.load(settings.recording.redactor)
    for registry, named in ((DRAFTERS, all_drafters(settings)), (POLICIES, all_policies(settings))):
        for one in named.values():
            if isinstance(one, PluginSettings):
                _parameters(registry.load(one.name), one, registry)


def _parameters(make: Callable[..., object], settings: PluginSettings, registry: Registry) -> set[str]:
    """Return the names that `make` takes by keyword; raises ConfigError if the settings do not fit them."""
    what, given = f"{registry.kind} {settings.name!r}", GIVEN[registry.kind]
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{what} must be a class with a readable signature: {error}") from error
    by_keyword = [each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    names = {each.name for each in by_keyword}
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters)
    known = sorted(names - set(given))
    for name in settings.options:
        if name in given or (name not in names and not takes_any):
            hint = nearest(name, known) if known else "it takes none"
            raise ConfigError(f"unknown setting {name!r} of {what}; {hint}")
    for each in by_keyword:
        if each.default is each.empty and each.name not in settings.options and each.name not in given:
            raise ConfigError(f"{what} needs the setting {each.name!r}; known: {', '.join(known)}")
    return names
