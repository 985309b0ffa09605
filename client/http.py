"""Stream answers from a specd server over HTTP, as the same events that travel through Redis."""

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec

from client.wire import Chunk, Final, Speculated, Usage
from core.errors import QueueError, RequestError
from core.types import FinishReason

CONNECT_TIMEOUT_S = 5.0
# Longer than the server's keep-alive interval: a connection that says nothing for this long is dead.
READ_TIMEOUT_S = 60.0
REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH, "abort": FinishReason.CANCELLED}


def authorization(api_key: str | None) -> dict[str, str]:
    """Return the headers that show an API key; none without one."""
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


async def stream_completion(
    url: str, prompt: str, *, api_key: str | None = None, **fields: Any
) -> AsyncIterator[Chunk | Final]:
    """Yield the events of a completion of `prompt`; fields are those of POST /v1/completions.

    Raises RequestError if the server refuses, QueueError if it is out of reach or the stream breaks off.
    """
    async for event in _stream(f"{url}/v1/completions", api_key, {"prompt": prompt, **fields}):
        yield event


async def stream_chat(
    url: str, messages: list[dict[str, str]], *, api_key: str | None = None, **fields: Any
) -> AsyncIterator[Chunk | Final]:
    """Yield the events of the assistant's next turn; fields are those of POST /v1/chat/completions.

    Raises RequestError if the server refuses, QueueError if it is out of reach or the stream breaks off.
    """
    async for event in _stream(f"{url}/v1/chat/completions", api_key, {"messages": messages, **fields}):
        yield event


async def _stream(url: str, api_key: str | None, body: dict[str, Any]) -> AsyncIterator[Chunk | Final]:
    body = {name: value for name, value in body.items() if value is not None}
    if body.get("n", 1) != 1:
        raise RequestError(f"one stream of events is one choice: n must be 1 here, got {body['n']}", param="n")
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=authorization(api_key)) as session,
            session.post(url, json=body) as response,
        ):
            if response.status != 200:
                raise refusal(response.status, await response.read())
            async for event in _events(response.content):
                yield event
    except (aiohttp.ClientError, TimeoutError) as error:
        raise QueueError(f"no answer from {url}: {error or 'timed out'}") from error
    except (json.JSONDecodeError, LookupError, msgspec.ValidationError) as error:
        raise QueueError(f"{url} sent what is no answer of specd's, or broke off in the middle of one") from error


async def _events(lines: aiohttp.StreamReader) -> AsyncIterator[Chunk | Final]:
    reason, tail = FinishReason.ERROR, ""
    async for line in lines:
        if not line.startswith(b"data: "):
            continue
        data = line[len(b"data: ") :].strip()
        if data == b"[DONE]":
            return
        message = json.loads(data)
        if "error" in message:
            raise refusal(500, data)
        if "speculation" in message:
            yield msgspec.convert(message["speculation"], Chunk, strict=False)
        elif not message["choices"]:
            yield read_final(message, reason, tail)
        elif message["choices"][0]["finish_reason"]:
            reason, tail = read_end(message["choices"][0])
    raise QueueError("the stream broke off before the answer ended")


def read_final(message: dict[str, Any], reason: FinishReason, tail: str) -> Final:
    """Return the Final that a body with a usage stands for; raises LookupError for one without."""
    usage, spec = message["usage"], message["metrics"]["speculative_decoding"]
    return Final(
        reason,
        Usage(usage["prompt_tokens"], usage["completion_tokens"], usage["prompt_tokens_details"]["cached_tokens"]),
        Speculated(spec["num_spec_steps"], spec["num_draft_tokens"], spec["num_accepted_draft_tokens"]),
        tail,
    )


def read_end(choice: dict[str, Any]) -> tuple[FinishReason, str]:
    """Return why a finished choice ended, and the last of its text."""
    return REASONS[choice["finish_reason"]], choice.get("text") or choice.get("delta", {}).get("content", "")


def refusal(status: int, body: bytes) -> RequestError:
    """Return the error that a server's body tells, in its own words where they are OpenAI's."""
    try:
        error = json.loads(body)["error"]
        return RequestError(error["message"], status=status, param=error["param"], code=error["code"])
    except (ValueError, KeyError, TypeError):
        return RequestError(f"the server answered {status}: {body[:200]!r}", status=status)
