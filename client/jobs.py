"""Jobs over HTTP that outlive connections: made once, followed to the end whatever breaks on the way.

A broken connection, a gateway that restarts or is gone: each call goes on by itself, at the next of several gateways if
there are several, and no token comes twice or not at all.
"""

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec
from msgspec import Struct

from client.http import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, authorization, read_end, read_final, refusal
from client.sse import ServerEvent, read_events
from client.wire import JOBS_PATH, Chunk, Final
from core.errors import QueueError, RequestError

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
# Answers that say "not now": the gateway, or one before it, has no Redis or no worker, or is going.
NOT_NOW = frozenset({429, 500, 502, 503, 504})


class JobEvent(Struct, frozen=True):
    """One event of a job's choice; who has it goes on after it by its id."""

    id: str
    choice: int
    message: Chunk | Final


class Jobs:
    """A client of one or more gateways of one Redis; an async context.

    api_key is shown to each of them.
    max_failures is how many attempts in a row may fail before a call gives up with QueueError, which takes about
    `sum(min(0.1 * 2**i, 5) for i in range(max_failures))` seconds. Methods raise RequestError where the server refuses.
    """

    def __init__(self, urls: str | Sequence[str], *, api_key: str | None = None, max_failures: int = 10) -> None:
        self._urls = [urls] if isinstance(urls, str) else list(urls)
        self._max_failures, self._api_key = max_failures, api_key
        # The gateway that answered last is asked first.
        self._at = 0
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S)
        self._session = aiohttp.ClientSession(timeout=timeout, headers=authorization(self._api_key))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def submit(self, *, idempotency_key: str | None = None, **fields: Any) -> str:
        """Make a job and return its id; fields are those of /v1/completions or, with messages, /v1/chat/completions.

        It has an idempotency key in any case, so that an attempt whose answer was lost makes no second job.
        """
        body = {name: value for name, value in fields.items() if value is not None}
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        answer = await self._ask("POST", "", json=body, headers=headers)
        return str(answer["id"])

    async def state(self, job_id: str) -> dict[str, Any]:
        """Return the job as GET /v1/jobs/ID shows it."""
        return await self._ask("GET", f"/{job_id}")

    async def cancel(self, job_id: str) -> dict[str, Any]:
        """Ask for a job's end and return the job; one that has ended stays as it is."""
        return await self._ask("POST", f"/{job_id}/cancel")

    async def delete(self, job_id: str) -> None:
        """Cancel a job and have it forgotten; one that is unknown, as after a lost answer to this, is no error."""
        try:
            await self._ask("DELETE", f"/{job_id}")
        except RequestError as error:
            if error.code != "job_not_found":
                raise

    async def result(self, job_id: str) -> dict[str, Any]:
        """Wait for a job's end and return its answer, as OpenAI's endpoints spell it.

        Raises RequestError if the job failed, QueueError when it gives up.
        """
        async for _ in self.events(job_id):
            pass
        job = await self.state(job_id)
        return dict(job["answer"])

    async def events(self, job_id: str, *, after: str = "") -> AsyncGenerator[JobEvent, None]:
        """Yield a job's events after the one with the id `after`, up to the last choice's Final.

        Raises RequestError if the job failed or is unknown, QueueError when it gives up.
        """
        failures = 0
        while True:
            try:
                async with aclosing(self._connection(job_id, after)) as connection:
                    async for came in connection:
                        after, failures = came.id, 0
                        if (event := _job_event(came)) is not None:
                            yield event
            except _Broken as error:
                failures += 1
                await self._pause(failures, error)
            else:
                return

    async def _connection(self, job_id: str, after: str) -> AsyncGenerator[ServerEvent, None]:
        """Yield what one connection brings; raises _Broken unless it brought the end."""
        headers = {"Last-Event-ID": after} if after else {}
        address = f"{self._url}{JOBS_PATH}/{job_id}/events"
        try:
            async with self._open.get(address, headers=headers) as response:
                if response.status != 200:
                    raise _error(response.status, await response.read())
                async for came in read_events(response.content):
                    if came.data == "[DONE]":
                        return
                    if not came.id:
                        # An event without a place is no part of the answer: the gateway could not go on.
                        raise _Broken(came.data)
                    yield came
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _Broken(f"{address}: {error or 'timed out'}") from error
        raise _Broken(f"{address}: the stream broke off before the answer ended")

    async def _ask(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        failures = 0
        while True:
            address = f"{self._url}{JOBS_PATH}{path}"
            try:
                try:
                    async with self._open.request(method, address, **arguments) as response:
                        data = await response.read()
                        if response.status not in (200, 202):
                            raise _error(response.status, data)
                        return dict(json.loads(data))
                except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                    raise _Broken(f"{address}: {error or 'timed out'}") from error
            except _Broken as error:
                failures += 1
                await self._pause(failures, error)

    async def _pause(self, failures: int, error: Exception) -> None:
        """Turn to the next gateway after a while; raises QueueError after too many failures in a row."""
        if failures >= self._max_failures:
            raise QueueError(f"given up after {failures} attempts: {error}") from error
        self._at = (self._at + 1) % len(self._urls)
        await asyncio.sleep(min(FIRST_PAUSE_S * 2 ** (failures - 1), LONGEST_PAUSE_S))

    @property
    def _url(self) -> str:
        return self._urls[self._at]

    @property
    def _open(self) -> aiohttp.ClientSession:
        assert self._session is not None, "Jobs is an async context: use `async with Jobs(url) as jobs`"
        return self._session


class _Broken(Exception):
    """An attempt failed in a way that another may not."""


def _error(status: int, data: bytes) -> Exception:
    error = refusal(status, data)
    return _Broken(error.message) if status in NOT_NOW else error


def _job_event(came: ServerEvent) -> JobEvent | None:
    """Read an event; None for the last one, which only has the sums. Raises RequestError if it says the job failed."""
    try:
        body = json.loads(came.data)
        if "error" in body:
            raise refusal(500, came.data.encode())
        if not body["choices"]:
            return None
        choice = body["choices"][0]
        if "speculation" in body:
            message: Chunk | Final = msgspec.convert(body["speculation"], Chunk, strict=False)
        else:
            message = read_final(body, *read_end(choice))
        return JobEvent(came.id, choice["index"], message)
    except (ValueError, LookupError, TypeError) as error:
        raise QueueError(f"the server sent what is no event of a job: {came.data[:200]!r}") from error
