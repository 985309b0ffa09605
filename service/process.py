"""What every process of the service does around its work: logs, signals, one clear error."""

import asyncio
import signal
from collections.abc import Awaitable, Callable

from core.config import Settings
from core.errors import QueueError, SpecdError
from service.logs import configure_logs

Work = Callable[[Settings, asyncio.Event], Awaitable[None]]


def run_process(settings: Settings, work: Work) -> int:
    """Run `work` until SIGINT or SIGTERM sets its event; returns the exit status. Raises SpecdError."""
    configure_logs(settings.log, role=settings.server.role)
    try:
        asyncio.run(_until_signalled(settings, work))
    except* SpecdError as group:
        raise _first(group) from None
    except* OSError as group:
        raise QueueError(str(_first(group))) from None
    return 0


async def _until_signalled(settings: Settings, work: Work) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await work(settings, stop)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    found = group.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found
