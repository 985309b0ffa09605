"""`specd serve`: from the command line to a running role. Each role is loaded by name, so a gateway has no torch."""

import argparse
import os
from collections.abc import Mapping

from cli.configuration import effective_settings, with_state_dirs
from core.config import Settings
from core.registry import ROLES


def run(arguments: argparse.Namespace) -> int:
    """Run the gateway, a worker, or a supervised pair until told to stop."""
    settings, _ = effective_settings(arguments)
    settings = with_state_dirs(settings, os.environ)
    status: int = ROLES.load(role_of(settings, os.environ))(settings)
    return status


def role_of(settings: Settings, environ: Mapping[str, str]) -> str:
    """Return the role of this process: of a worker of several processes what torchrun has made it, if it has yet."""
    if settings.server.role != "worker" or settings.engine.tensor_parallel == 1:
        return settings.server.role
    # By the first torch itself tells whether it was started by torchrun; ranks count over all machines.
    if "TORCHELASTIC_RUN_ID" not in environ:
        return "ranks"
    return "worker" if environ["RANK"] == "0" else "follower"
