"""A worker's side of drafters that come and go: it makes its engine have what Redis says is wanted.

A checkpoint is read in a thread of its own, while the engine goes on stepping; only putting it in, or taking one out,
happens between two steps. What cannot be loaded is reported and changes nothing.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Protocol

import msgspec
import structlog
from redis.exceptions import RedisError

from client.wire import DrafterState
from core.config import DrafterSettings
from core.errors import SpecdError
from service.engine_thread import EngineThread
from service.tasks import is_cancelled
from service.wanted_drafters import WantedDrafters, decode

log = structlog.get_logger()

POLL_S = 1.0

# Puts a drafter that has been read into the engine, or takes one out; to be called in the engine's thread.
Change = Callable[[], None]


class DrafterHost(Protocol):
    """What loads drafters beside one engine."""

    def prepare(self, name: str, settings: DrafterSettings) -> Change:
        """Read a drafter's checkpoint and return what puts it in; called in any thread. Raises SpecdError."""
        ...

    def unload(self, name: str) -> None:
        """Take a drafter out; called in the engine's thread. Raises ConfigError for an unknown name."""
        ...

    def expect(self, name: str) -> None:
        """Let requests that name a drafter decode plainly while it is not loaded; called in the engine's thread."""
        ...

    def kv_mib(self) -> dict[str, float]:
        """Return the KV memory of every drafter that is loaded."""
        ...


class DrafterLoads:
    """Follows what is wanted; states are what it tells of it."""

    def __init__(self, wanted: WantedDrafters, engine: EngineThread, host: DrafterHost) -> None:
        self._wanted, self._engine, self._host = wanted, engine, host
        self._done: dict[str, bytes] = {}
        self._changed: dict[str, DrafterState] = {}

    @property
    def states(self) -> list[DrafterState]:
        """Every drafter of the engine, and those that are wanted and not there."""
        loaded = self._host.kv_mib()
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
            await self._engine.call(partial(self._host.expect, name))
            self._changed[name] = DrafterState(name, "unloaded" if value == b"null" else "loading")

    async def _do(self, name: str, value: bytes) -> None:
        try:
            settings = decode(name, value)
            if settings is not None:
                change = await asyncio.to_thread(self._host.prepare, name, settings)
                await self._engine.call(change)
                self._changed[name] = DrafterState(name, "loaded")
            elif name in self._host.kv_mib():
                await self._engine.call(partial(self._host.unload, name))
                self._changed[name] = DrafterState(name, "unloaded")
        except SpecdError as error:
            self._failed(name, str(error), None)
        except Exception as error:  # noqa: BLE001 - a drafter is a plug-in; its worker must outlive it
            self._failed(name, f"loading failed: {error!r}", error)
        else:
            log.info("drafter_changed", drafter=name, state=self._changed[name].state)

    def _failed(self, name: str, told: str, error: Exception | None) -> None:
        self._changed[name] = DrafterState(name, "failed", error=told)
        log.warning("drafter_not_loaded", drafter=name, error=told, exc_info=error)
