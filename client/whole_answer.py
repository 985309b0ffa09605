"""Ask a specd server for whole answers, with the token ids of prompt and answer: what offline work needs.

An answer that is not streamed is there or not: nothing of it is lost with the connection but the wait. Refusals that
pass are waited out as the server says (Retry-After), connections that break are made again.
"""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from msgspec import Struct

from client.http import CONNECT_TIMEOUT_S, authorization, refusal
from core.errors import QueueError

# Refused for now: too many requests, no worker, or the queue out of reach.
PASSING = (408, 429, 502, 503)
FIRST_WAIT_S = 0.5
LAST_WAIT_S = 30.0
# A connection over which nothing came for this long is taken for dead; the server's own limit on answers is shorter.
READ_TIMEOUT_S = 3600.0


class WholeAnswer(Struct, frozen=True):
    """One answer; finish_reason is OpenAI's."""

    text: str
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    finish_reason: str


class Answers:
    """Answers of one server over shared connections; made by `answers_of`.

    last_good_s is when the server last answered anything but a passing refusal: while it does, every request is tried
    again for as long as it takes. num_retries counts what was waited out. Mutable.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, patience_s: float) -> None:
        self._session, self._url, self._patience_s = session, url.rstrip("/"), patience_s
        self.last_good_s = time.monotonic()
        self.num_retries = 0

    async def chat(self, messages: list[dict[str, Any]], **fields: Any) -> WholeAnswer:
        """Return the assistant's next turn; raises RequestError if it is refused, QueueError without server."""
        body = await self._ask("/v1/chat/completions", {"messages": messages, **fields})
        return self._read(body, lambda choice: choice["message"]["content"] or "")

    async def completion(self, prompt: str, **fields: Any) -> WholeAnswer:
        """Return how `prompt` goes on; raises what `chat` raises."""
        body = await self._ask("/v1/completions", {"prompt": prompt, **fields})
        return self._read(body, lambda choice: choice["text"])

    def _read(self, body: dict[str, Any], text_of: Any) -> WholeAnswer:
        try:
            (choice,) = body["choices"]
            prompt_ids = choice.get("prompt_token_ids") or body["prompt_token_ids"]
            ids = tuple(prompt_ids), tuple(choice["token_ids"])
            return WholeAnswer(text_of(choice), *ids, choice["finish_reason"])
        except (LookupError, TypeError, ValueError) as error:
            raise QueueError(f"{self._url} does not answer as specd does: token ids are missing") from error

    async def _ask(self, path: str, fields: dict[str, Any]) -> dict[str, Any]:
        body = {name: value for name, value in fields.items() if value is not None} | {"return_token_ids": True}
        wait_s = FIRST_WAIT_S
        while True:
            try:
                async with self._session.post(self._url + path, json=body) as response:
                    data = await response.read()
                    if response.status not in PASSING:
                        self.last_good_s = time.monotonic()
                        if response.status != 200:
                            raise refusal(response.status, data)
                        answer: dict[str, Any] = json.loads(data)
                        return answer
                    problem, told_s = refusal(response.status, data).message, response.headers.get("Retry-After")
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                problem, told_s = str(error) or "timed out", None
            except json.JSONDecodeError as error:
                raise QueueError(f"{self._url} sent what is no answer of specd's") from error
            if time.monotonic() - self.last_good_s > self._patience_s:
                raise QueueError(f"no answer from {self._url} for {self._patience_s:g} s: {problem}")
            self.num_retries += 1
            # Spread, so that those who were refused together do not come back together.
            await asyncio.sleep((_seconds(told_s) or wait_s) * random.uniform(1.0, 1.5))  # noqa: S311
            wait_s = min(2 * wait_s, LAST_WAIT_S)


@asynccontextmanager
async def answers_of(url: str, api_key: str | None, patience_s: float) -> AsyncIterator[Answers]:
    """Yield the answers of a server, given up when it shows no sign of life for `patience_s`."""
    timeout = aiohttp.ClientTimeout(total=None, connect=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S)
    connector = aiohttp.TCPConnector(limit=0)
    headers = authorization(api_key)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as session:
        yield Answers(session, url, patience_s)


def _seconds(told: str | None) -> float | None:
    try:
        return max(0.0, float(told)) if told else None
    except ValueError:
        return None
