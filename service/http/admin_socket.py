"""Where the server is changed: a unix socket of its own, which no port leads to. Who may open it may do it all."""

import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog
from aiohttp import web

from core.errors import ConfigError
from core.server_settings import ServerSettings

log = structlog.get_logger()

# What does not lead to a path: no socket, and a folder that nobody has named.
NO_PATHS = ("off", "auto")
# What an address of a unix socket has room for; less on some systems, whose own error is told then.
MAX_PATH_BYTES = 107


def admin_path(settings: ServerSettings) -> Path | None:
    """Return where the admin socket of a server lies, None for none."""
    return None if settings.admin in NO_PATHS else Path(settings.admin.replace("{port}", str(settings.port)))


@asynccontextmanager
async def admin_socket(path: Path, app: web.Application) -> AsyncIterator[None]:
    """Serve an application on a unix socket for as long as the context lasts, for this user alone.

    Raises ConfigError if that cannot be, or another server is there.
    """
    listening = _listen(path)
    runner = web.AppRunner(app, access_log=None)
    try:
        await runner.setup()
        await web.SockSite(runner, listening).start()
        log.info("admin_ready", socket=str(path))
        yield
    finally:
        await runner.cleanup()
        _remove(path)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _listen(path: Path) -> socket.socket:
    if len(bytes(path)) > MAX_PATH_BYTES:
        raise ConfigError(
            f"the path of the admin socket, {path}, is longer than {MAX_PATH_BYTES} bytes; name another one with "
            "server.admin, or say --admin off"
        )
    listening = socket.socket(socket.AF_UNIX)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _clear(path)
        listening.bind(str(path))
        # Nobody can connect before it listens, so nobody was early.
        path.chmod(0o600)
    except OSError as error:
        listening.close()
        raise ConfigError(f"cannot make the admin socket {path}: {error.strerror}") from error
    return listening


def _clear(path: Path) -> None:
    """Remove a socket that a server which is gone has left; raises OSError for one that is in use."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            _remove(path)
            return
    raise OSError(errno.EADDRINUSE, "another server has it")
