"""`specd config show|check|reference`: the settings in force and who decided them, if they hold, what there is."""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from cli.config_reference import reference
from cli.parser import setting_flags
from core.config import Settings
from core.config_file import Origin, load_settings, to_toml
from core.masking import without_secrets
from core.plugins import check_plugins


def effective_settings(arguments: argparse.Namespace) -> tuple[Settings, dict[str, Origin]]:
    """Load the settings of this process: file, environment, command line."""
    return load_settings(arguments.config, os.environ, setting_flags(arguments))


def with_state_dirs(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """Return the settings with places for cost tables, proofs and the admin socket: those configured, else state_dir's,
    else the user's.

    Where none of them is known, tables are measured anew at each start, no proof is found, and there is no socket.
    """
    home = Path(environ["HOME"]) if environ.get("HOME") else None
    engine, state_dir, server = settings.engine, settings.queue.state_dir, settings.server
    user_state = environ.get("XDG_STATE_HOME"), home and home / ".local" / "state"
    if server.admin == "auto":
        socket = _folder("admin-{port}.sock", state_dir, *user_state)
        server = msgspec.structs.replace(server, admin=socket or "off")
    return msgspec.structs.replace(
        settings,
        server=server,
        engine=msgspec.structs.replace(
            engine,
            cost_table_dir=engine.cost_table_dir
            or _folder("cost", state_dir, environ.get("XDG_CACHE_HOME"), home and home / ".cache"),
            proof_dir=engine.proof_dir or _folder("proofs", state_dir, *user_state),
        ),
    )


def _folder(name: str, state_dir: str | None, told: str | None, usual: Path | None) -> str | None:
    """Return a path in state_dir, else of the user's: where the environment says, else where it usually is."""
    if state_dir is not None:
        return str(Path(state_dir) / name)
    own = told or usual
    return str(Path(own) / "specd" / name) if own else None


def run(arguments: argparse.Namespace) -> int:
    """Print the settings as TOML, one line if they are valid, or the page of them all; raises ConfigError if not."""
    if arguments.action == "reference":
        print(reference(), end="")
        return 0
    settings, origin = effective_settings(arguments)
    if arguments.action == "show":
        print(to_toml(without_secrets(settings), origin), end="")
    else:
        check_plugins(settings)
        print("settings are valid")
    return 0
