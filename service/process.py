"""What every process of the service does around its work: logs, signals, one clear error."""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from redis.exceptions import RedisError

from core.config import Settings
from core.errors import QueueError, SpecdError
from service.logs import configure_logs

# What Python has by itself.
MAX_RECURSION = 1000

Work = Callable[[Settings, asyncio.Event], Awaitable[None]]


def run_process(settings: Settings, work: Work) -> int:
    """Run `work` until SIGINT or SIGTERM sets its event; returns the exit status. Raises SpecdError."""
    configure_logs(settings.log, role=settings.server.role)
    check_recursion()
    try:
        asyncio.run(_until_signalled(settings, work))
    except BaseExceptionGroup as group:
        # Tasks raise in groups; a deliberate error among them is what the others followed from.
        if (known := group.subgroup(SpecdError)) is None:
            raise
        raise _first(known) from None
    except (RedisError, OSError) as error:
        raise QueueError(str(error)) from error
    return 0


def check_recursion() -> None:
    """Raise SpecdError if Python may recurse deeper than decoders of untrusted data can bear.

    With a raised limit msgspec runs out of stack, and the process dies, where it would raise RecursionError.
    """
    if (limit := sys.getrecursionlimit()) > MAX_RECURSION:
        raise SpecdError(
            f"some package has set Python's recursion limit to {limit}; specd decodes what others send, and needs "
            f"{MAX_RECURSION} or less"
        )


async def _until_signalled(settings: Settings, work: Work) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await work(settings, stop)


async def cancel_all(tasks: Iterable[asyncio.Task[Any]], again_s: float = 0.2) -> None:
    """Cancel tasks until they have ended.

    Once may not be enough: before Python 3.12 asyncio.wait_for, which redis-py uses for every command, loses a
    cancellation that meets the command's end.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=again_s)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    found = group.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found
