"""The engine's process: `python -m service.engine_process.main DESCRIPTOR`, started by the worker (start.py).

The connection is inherited; what to build is the first that comes over it.
"""

import contextlib
import socket
import sys

import structlog

from core.config import Settings
from core.errors import SpecdError
from engine.build import build_engine
from service.engine_process.arm_host import EngineArms
from service.engine_process.drafter_host import EngineHost
from service.engine_process.messages import Build, Failure, Unusable, framed, receive_told
from service.engine_process.server import EngineServer
from service.logs import configure_logs

log = structlog.get_logger()


def main() -> None:
    """Serve the worker that started this process until it closes, or is gone."""
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        with connection.makefile("rb") as frames:
            told = receive_told(frames)
        if isinstance(told, Build):
            serve(connection, told.settings)


def serve(connection: socket.socket, settings: Settings) -> None:
    """Build an engine and serve it to the other end of a connection, or tell why there is none."""
    configure_logs(settings.log, role="engine")
    try:
        engine = build_engine(settings)
    except Exception as error:
        if not isinstance(error, SpecdError):
            log.exception("engine_not_built", error=repr(error))
        with contextlib.suppress(ConnectionError):
            connection.sendall(framed(Unusable(Failure.of(error))))
        return
    with contextlib.closing(engine):
        EngineServer(connection, engine, EngineHost(engine, settings.engine), EngineArms(engine, settings)).run()


if __name__ == "__main__":
    main()
