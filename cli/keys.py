"""`specd keys`: make, list and revoke the API keys of a file. A server that reads the file goes by it at once."""

import argparse
import os
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from core.config_file import NAME, load_settings
from core.errors import ConfigError
from service.door.api_keys import ApiKey, hash_of, new_key, read_keys, write_keys
from service.door.tenants import Limits


def run(arguments: argparse.Namespace) -> int:
    """Do what is asked; a key is shown once, when it is made, and kept nowhere."""
    path = _file(arguments)
    keys = read_keys(path) if path.exists() else {}
    if arguments.action == "list":
        show(Console(highlight=False), keys)
        return 0
    if not (arguments.name and NAME.fullmatch(arguments.name)):
        raise ConfigError(f"`specd keys {arguments.action}` needs a NAME, 1 to 64 of A-Z a-z 0-9 _ -")
    if (arguments.name in keys) == (arguments.action == "create"):
        state = "there already; revoke it first, or take another name" if arguments.name in keys else "not there"
        raise ConfigError(f"{path}: the key {arguments.name!r} is {state}")
    if arguments.action == "revoke":
        write_keys(path, {name: key for name, key in keys.items() if name != arguments.name})
        return 0
    key = new_key()
    given = {field: value for field in (*Limits.__struct_fields__, "tenant") if (value := getattr(arguments, field))}
    try:
        made = msgspec.convert({"sha256": hash_of(key), **given}, ApiKey)
    except msgspec.ValidationError as error:
        raise ConfigError(f"the key cannot be made: {error}") from error
    write_keys(path, keys | {arguments.name: made})
    print(key)
    return 0


def show(console: Console, keys: dict[str, ApiKey]) -> None:
    """Print one line per key, without anything that would let somebody in."""
    table = Table("key", "tenant", *Limits.__struct_fields__, box=None)
    for name, key in keys.items():
        limits = ["-" if (value := getattr(key, field)) is None else str(value) for field in Limits.__struct_fields__]
        table.add_row(name, key.tenant or name, *limits)
    console.print(table if keys else "no keys")


def _file(arguments: argparse.Namespace) -> Path:
    """Return the file that is named, else the one of the settings; raises ConfigError if none is."""
    if arguments.file is not None:
        return Path(arguments.file)
    # A server that is open to others without keys is what this is about to end.
    settings, _ = load_settings(arguments.config, os.environ, {"server.allow_no_keys": True})
    if settings.server.api_keys_file is None:
        raise ConfigError("name the file of keys with --file, or in the settings as server.api_keys_file")
    return Path(settings.server.api_keys_file)
