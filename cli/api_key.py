"""The API key that a command shows to a server: a flag, else a variable of the environment."""

import argparse
import os

from core.config_file import API_KEY_VARIABLE


def add_api_key_flag(parser: argparse.ArgumentParser) -> None:
    """Add --api-key to a command that asks a server."""
    parser.add_argument(
        "--api-key", metavar="KEY", help=f"better given as {API_KEY_VARIABLE}, which no process list shows"
    )


def api_key(arguments: argparse.Namespace) -> str | None:
    """Return the key that was given, None for none."""
    return arguments.api_key or os.environ.get(API_KEY_VARIABLE) or None
