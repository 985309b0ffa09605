"""`specd config show|check`: the effective settings with who decided each, or only whether they hold."""

import argparse
import os

from cli.parser import setting_flags
from core.config import Origin, Settings, load_settings, to_toml, without_secrets


def effective_settings(arguments: argparse.Namespace) -> tuple[Settings, dict[str, Origin]]:
    """Load the settings of this process: file, environment, command line."""
    return load_settings(arguments.config, os.environ, setting_flags(arguments))


def run(arguments: argparse.Namespace) -> int:
    """Print the settings as TOML, or one line if they are valid; raises ConfigError if not."""
    settings, origin = effective_settings(arguments)
    if arguments.action == "show":
        print(to_toml(without_secrets(settings), origin), end="")
    else:
        print("settings are valid")
    return 0
