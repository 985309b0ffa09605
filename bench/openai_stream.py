"""Streamed completions of any OpenAI-compatible server, as arrivals of tokens: specd, vLLM and SGLang alike.

One connection per client, kept open and blocking: a client of the closed loop is a thread that waits. Token counts come
from the usage that each chunk carries (`stream_options.continuous_usage_stats`), so chunks of several tokens count in
full whatever text they show.
"""

import json
import time
from collections.abc import Generator, Iterator
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

from bench.prompt_pool import Question
from core.errors import QueueError

# Longer than any server of sound mind stays silent in the middle of an answer.
TIMEOUT_S = 60.0
DATA = b"data: "
END = b"[DONE]"


class Arrival(Struct, frozen=True):
    """Tokens of one chunk; ids are empty where the server does not tell them.

    verified and accepted are specd's account of the round; is_round is false for servers that give none.
    """

    at_s: float
    num_tokens: int
    token_ids: tuple[int, ...] = ()
    is_round: bool = False
    verified: int = 0
    accepted: int = 0


class Connection:
    """One client's connection. `fields` are added to every request; chats go through the server's template."""

    def __init__(self, url: str, fields: dict[str, Any], *, chat: bool = False, api_key: str | None = None) -> None:
        parts = urlsplit(url)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._url, self._fields, self._chat = url, fields, chat
        self._headers = {"Content-Type": "application/json", **_authorization(api_key)}
        self._path = parts.path.rstrip("/") + ("/v1/chat/completions" if chat else "/v1/completions")
        self._connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT_S)

    def ask(self, question: Question, temperature: float, **fields: Any) -> Generator[Arrival, None, None]:
        """Send a request and yield what arrives; closing the iterator early cancels it. Raises QueueError."""
        body = {
            "max_tokens": question.max_tokens,
            "temperature": temperature,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            **self._fields,
            **fields,
        }
        body |= {"messages": question.messages} if self._chat else {"prompt": question.text}
        ended = False
        try:
            self._connection.request("POST", self._path, json.dumps(body), self._headers)
            response = self._connection.getresponse()
            if response.status != HTTPStatus.OK:
                raise QueueError(
                    f"{self._url} answered {response.status}: {response.read(500).decode('utf-8', 'replace')}"
                )
            yield from _arrivals(response)
            ended = True
        except (OSError, HTTPException) as error:
            raise QueueError(f"no answer from {self._url}: {error or 'it went away'}") from error
        except (ValueError, LookupError, TypeError) as error:
            raise QueueError(f"{self._url} sent what is no streamed completion: {error!r}") from error
        finally:
            if not ended:
                self.close()

    def close(self) -> None:
        """Let go of the connection; the next request opens another."""
        self._connection.close()


def served_model(url: str, api_key: str | None = None) -> str:
    """Return the name of the model that a server has; raises QueueError if it does not answer."""
    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", parts.path.rstrip("/") + "/v1/models", headers=_authorization(api_key))
        return str(json.loads(connection.getresponse().read())["data"][0]["id"])
    except (OSError, HTTPException, ValueError, LookupError, TypeError) as error:
        raise QueueError(f"{url} does not tell its models: {error!r}") from error
    finally:
        connection.close()


def _authorization(api_key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def _arrivals(response: HTTPResponse) -> Iterator[Arrival]:
    num_tokens = 0
    for line in response:
        if not line.startswith(DATA):
            continue
        data = line[len(DATA) :].strip()
        if data == END:
            # What is left of the body is its end mark; the connection is free when it was read.
            response.read()
            return
        message = json.loads(data)
        if "error" in message:
            raise QueueError(f"the answer failed: {message['error']}")
        choices = message["choices"]
        if not choices:
            continue
        if message.get("usage") is None:
            if _is_opening(choices[0]):
                continue
            raise QueueError("the server tells no usage in its chunks: it lacks stream_options.continuous_usage_stats")
        arrived = message["usage"]["completion_tokens"] - num_tokens
        num_tokens += arrived
        if arrived:
            yield _arrival(message, choices[0], arrived)
    raise QueueError("the stream broke off before the answer ended")


def _is_opening(choice: dict[str, Any]) -> bool:
    """A chat's first chunk may only name the role; it has no tokens to tell."""
    return "role" in choice.get("delta", {}) and not choice["delta"].get("content")


def _arrival(message: dict[str, Any], choice: dict[str, Any], num_tokens: int) -> Arrival:
    told = message.get("speculation")
    if told is None:
        return Arrival(time.perf_counter(), num_tokens, tuple(choice.get("token_ids") or ()))
    return Arrival(
        time.perf_counter(),
        num_tokens,
        tuple(told["token_ids"]),
        is_round=True,
        verified=told.get("verified", 0),
        accepted=told.get("num_drafts", 0),
    )
