"""`specd simulate`: what policies, lengths and fleets would do, on a virtual clock."""

import argparse

from bench.simulate import command


def run(arguments: argparse.Namespace) -> int:
    """Simulate, print tables and write JSON and a figure."""
    return command.run(arguments)
