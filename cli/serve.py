"""`specd serve`: from the command line to a running role. Each role is loaded by name, so a gateway has no torch."""

import argparse
import os

from cli.configuration import effective_settings, with_state_dirs
from core.registry import ROLES


def run(arguments: argparse.Namespace) -> int:
    """Run the gateway, a worker, or a supervised pair until told to stop."""
    settings, _ = effective_settings(arguments)
    settings = with_state_dirs(settings, os.environ)
    status: int = ROLES.load(settings.server.role)(settings)
    return status
