"""Consumer groups that Redis has lost, made again: it was emptied, or came back without what it had been told.

A group is made at the stream's start, so that nothing that was written meanwhile is passed over. What keeps failing is
tried less and less often: a read that is refused at once would otherwise be repeated hundreds of times a second.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from redis.exceptions import RedisError

log = structlog.get_logger()

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
# After any other fault of Redis.
RETRY_S = 0.5


class GroupHealing:
    """What one reader of a group does about reads that failed; make creates the group where it is missing.

    healed is told of each time that it was made again.
    """

    def __init__(self, group: str, make: Callable[[], Awaitable[None]], healed: Callable[[], None]) -> None:
        self._group, self._make, self._healed = group, make, healed
        self._attempts = 0

    def worked(self) -> None:
        """Say that a read went well: the next fault is a new one."""
        self._attempts = 0

    async def after(self, error: Exception) -> None:
        """Make the group again if its lack is why a read failed, then wait: longer each time in a row."""
        pause_s = RETRY_S
        if "NOGROUP" in str(error):
            pause_s = min(FIRST_PAUSE_S * 2**self._attempts, LONGEST_PAUSE_S)
            self._attempts += 1
            await self._heal(pause_s)
        await asyncio.sleep(pause_s)

    async def _heal(self, pause_s: float) -> None:
        told = {"group": self._group, "attempt": self._attempts, "pause_s": pause_s}
        try:
            await self._make()
        except (RedisError, OSError) as error:
            log.warning("group_not_healed", error=str(error), **told)
        else:
            self._healed()
            log.warning("group_healed", **told)
