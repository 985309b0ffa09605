"""`specd bench`: compare decoding modes under load on this machine."""

import argparse

from bench import command


def run(arguments: argparse.Namespace) -> int:
    """Measure, print a table and write JSON and figures."""
    return command.run(arguments)
