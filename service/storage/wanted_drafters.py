"""Which drafters the workers of a model are to have beside those of their settings, as Redis keeps it.

What is wanted is declared, not commanded: a worker that starts later, or was out of reach, does what the others did.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from client.wire import drafters_key
from core.config import DrafterSettings, NoDrafterSettings, PluginSettings
from core.config_file import read_entry
from core.errors import ConfigError
from service.queue import JobQueue

# Settings as plain data; None is a drafter that is not to be there.
Told = dict[str, Any] | None


class WantedDrafters:
    """Reads and writes what is wanted. Its methods raise RedisError or OSError while Redis is out of reach."""

    def __init__(self, queue: JobQueue) -> None:
        self._client, self._key = queue.client, drafters_key(queue.model)

    async def read(self) -> dict[str, bytes]:
        """Return what is wanted, by name, as it was written."""
        found: Any = await self._client.hgetall(self._key)
        return {name.decode(): value for name, value in found.items()}

    async def load(self, name: str, told: Mapping[str, Any]) -> None:
        """Want a drafter; raises ConfigError for settings that are none."""
        read_settings(name, dict(told))
        await self._client.hset(self._key, name, msgspec.json.encode(told))

    async def unload(self, name: str) -> None:
        """Want a drafter gone."""
        await self._client.hset(self._key, name, b"null")


def decode(name: str, value: bytes) -> DrafterSettings | None:
    """Return the settings that a value stands for, None for a drafter that is not to be there; raises ConfigError."""
    try:
        told: Told = msgspec.json.decode(value, type=dict[str, Any] | None)
    except msgspec.DecodeError as error:
        raise ConfigError(f"what is wanted of drafter {name!r} cannot be read: {error}") from error
    return None if told is None else read_settings(name, told)


def read_settings(name: str, told: dict[str, Any]) -> DrafterSettings:
    """Return a drafter's settings from plain data, as in a table [drafters.NAME]; raises ConfigError."""
    settings: DrafterSettings = read_entry("drafters", name, told, "the request")  # type: ignore[assignment]
    if isinstance(settings, NoDrafterSettings):
        raise ConfigError(f"drafters.{name}: kind 'none' is nothing to load; unload the drafter instead")
    if isinstance(settings, PluginSettings) and not settings.name:
        raise ConfigError(f"drafters.{name}: kind is missing")
    return settings
