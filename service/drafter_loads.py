"""A worker's side of drafters that come and go: it makes its engine have what Redis says is wanted.

A checkpoint is read while the engine goes on stepping; only putting it in, or taking one out, happens between two
steps. What cannot be loaded is reported and changes nothing.
"""

import asyncio

import msgspec
import structlog
from redis.exceptions import RedisError

from client.wire import DrafterState
from core.errors import SpecdError
from service.engine_process.client import EngineClient, EngineGone
from service.storage.wanted_drafters import WantedDrafters, decode
from service.tasks import is_cancelled

log = structlog.get_logger()

POLL_S = 1.0


class DrafterLoads:
    """Follows what is wanted; states are what it tells of it."""

    def __init__(self, wanted: WantedDrafters, engine: EngineClient) -> None:
        self._wanted, self._engine = wanted, engine
        self._done: dict[str, bytes] = {}
        self._changed: dict[str, DrafterState] = {}

    @property
    def states(self) -> list[DrafterState]:
        """Every drafter of the engine, and those that are wanted and not there."""
        loaded = self._engine.drafters
        told = {name: DrafterState(name, "loaded") for name in loaded} | self._changed
        return [
            msgspec.structs.replace(one, serves=name in loaded, kv_mib=loaded.get(name, 0.0))
            for name, one in told.items()
        ]

    async def begin(self) -> None:
        """Learn the names that requests may have been let in for; to be awaited before the first job is claimed."""
        try:
            await self._expect(await self._wanted.read())
        except (RedisError, OSError) as error:
            log.warning("wanted_drafters_unknown", error=str(error))

    async def follow(self) -> None:
        """Do what is wanted until cancelled."""
        while not is_cancelled():
            try:
                await self.catch_up()
            except (RedisError, OSError) as error:
                log.warning("wanted_drafters_unknown", error=str(error))
            await asyncio.sleep(POLL_S)

    async def catch_up(self) -> None:
        """Do what has come to be wanted since the last time."""
        wanted = {name: value for name, value in (await self._wanted.read()).items() if self._done.get(name) != value}
        await self._expect(wanted)
        for name, value in wanted.items():
            self._done[name] = value
            await self._do(name, value)

    async def _expect(self, wanted: dict[str, bytes]) -> None:
        """See to it, before anything slow, that no request fails for naming a drafter that is on its way."""
        for name, value in wanted.items():
            await self._engine.expect_drafter(name)
            self._changed[name] = DrafterState(name, "unloaded" if value == b"null" else "loading")

    async def _do(self, name: str, value: bytes) -> None:
        try:
            settings = decode(name, value)
            if settings is not None:
                await self._engine.load_drafter(name, settings)
                self._changed[name] = DrafterState(name, "loaded")
            elif name in self._engine.drafters:
                await self._engine.unload_drafter(name)
                self._changed[name] = DrafterState(name, "unloaded")
        except EngineGone:
            raise
        except SpecdError as error:
            self._failed(name, str(error))
        else:
            log.info("drafter_changed", drafter=name, state=self._changed[name].state)

    def _failed(self, name: str, told: str) -> None:
        self._changed[name] = DrafterState(name, "failed", error=told)
        log.warning("drafter_not_loaded", drafter=name, error=told)
