"""Ask a server which drafters its workers have, and have drafters loaded and unloaded, over its admin socket."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from msgspec import Struct

from client.wire import DrafterState
from core.errors import QueueError

DRAFTERS_PATH = "/specd/drafters"
TIMEOUT_S = 10.0


class WorkerDrafters(Struct, frozen=True):
    """The drafters of one worker."""

    worker: str
    drafters: tuple[DrafterState, ...]


async def fetch_drafters(socket: Path) -> list[WorkerDrafters]:
    """Return the drafters of every worker of the server at `socket`; raises QueueError if it cannot say."""
    data = await _ask(socket, "GET", DRAFTERS_PATH)
    try:
        return msgspec.json.decode(data, type=list[WorkerDrafters])
    except msgspec.DecodeError as error:
        raise QueueError(f"{socket} sent what is no list of drafters: {error}") from error


async def load_drafter(socket: Path, name: str, told: Mapping[str, Any]) -> None:
    """Want a drafter loaded by every worker; `told` are its settings. Raises QueueError if that is refused."""
    await _ask(socket, "PUT", f"{DRAFTERS_PATH}/{name}", told)


async def unload_drafter(socket: Path, name: str) -> None:
    """Want a drafter gone from every worker; raises QueueError if that is refused."""
    await _ask(socket, "DELETE", f"{DRAFTERS_PATH}/{name}")


async def _ask(socket: Path, method: str, path: str, body: Mapping[str, Any] | None = None) -> bytes:
    try:
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(str(socket)), timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)
            ) as session,
            # The name of the host is none: the socket leads to one server.
            session.request(method, f"http://specd{path}", json=body) as response,
        ):
            data = await response.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise QueueError(f"no answer at the admin socket {socket}: {error or 'timed out'}") from error
    if response.status not in (200, 202):
        raise QueueError(f"{socket} answered {response.status}: {_reason(data)}")
    return data


def _reason(data: bytes) -> str:
    """Return the message of an error body, else the body as it came."""
    try:
        return str(msgspec.json.decode(data)["error"]["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return data.decode(errors="replace")[:200]
