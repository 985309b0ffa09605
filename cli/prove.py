"""`specd prove`: the certificate that no policy, load or rule changes what the target says."""

import argparse
import os
from pathlib import Path

from bench.prove import command
from cli.configuration import with_state_dirs
from core.config_file import load_settings


def run(arguments: argparse.Namespace) -> int:
    """Run the checks and print them; returns 1 if any of them fails."""
    settings, _ = load_settings(arguments.config, os.environ, {})
    folder = with_state_dirs(settings, os.environ).engine.proof_dir
    return command.run(arguments, Path(folder) if folder else None)
