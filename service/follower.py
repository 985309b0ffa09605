"""A rank of a worker that does not lead it: it serves nobody but its leader, and ends when that one does."""

import signal

import structlog

from core.config import Settings
from engine.build import load_follower
from service.logs import configure_logs

log = structlog.get_logger()


def run(settings: Settings) -> int:
    """Run what the leader tells of until it ends; returns the exit status. Raises ReplicaLost if it ends badly."""
    configure_logs(settings.log, role="follower")
    follower = load_follower(settings)
    # A worker that is told to stop finishes what runs, and for that it needs its followers: it tells them when to end.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    log.info("follower_done", forwards=follower.run())
    return 0
