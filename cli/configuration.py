"""`specd config show|check`: the effective settings with who decided each, or only whether they hold."""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from cli.parser import setting_flags
from core.config import Settings, without_secrets
from core.config_file import Origin, load_settings, to_toml
from core.plugins import check_plugins


def effective_settings(arguments: argparse.Namespace) -> tuple[Settings, dict[str, Origin]]:
    """Load the settings of this process: file, environment, command line."""
    return load_settings(arguments.config, os.environ, setting_flags(arguments))


def with_cost_table_dir(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """Return the settings with a folder for cost tables: the configured one, else state_dir's, else the user's cache.

    Where none of them is known, tables are measured anew at each start.
    """
    engine, state_dir = settings.engine, settings.queue.state_dir
    if engine.cost_table_dir is not None:
        return settings
    if state_dir is not None:
        folder = Path(state_dir) / "cost"
    elif environ.get("XDG_CACHE_HOME") or environ.get("HOME"):
        cache = environ.get("XDG_CACHE_HOME") or Path(environ["HOME"]) / ".cache"
        folder = Path(cache) / "specd" / "cost"
    else:
        return settings
    return msgspec.structs.replace(settings, engine=msgspec.structs.replace(engine, cost_table_dir=str(folder)))


def run(arguments: argparse.Namespace) -> int:
    """Print the settings as TOML, or one line if they are valid; raises ConfigError if not."""
    settings, origin = effective_settings(arguments)
    if arguments.action == "show":
        print(to_toml(without_secrets(settings), origin), end="")
    else:
        check_plugins(settings)
        print("settings are valid")
    return 0
