"""`specd bench`: compare decoding modes under load on this machine."""

import argparse

from bench import command
from cli.api_key import api_key


def run(arguments: argparse.Namespace) -> int:
    """Measure, print a table and write JSON and figures."""
    arguments.api_key = api_key(arguments)
    return command.run(arguments)
