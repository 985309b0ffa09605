"""Request bodies to typed requests; whatever is wrong is named, with what came and what would be right."""

import re
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from core.config import nearest
from core.errors import RequestError
from service.openai import NOT_BUILT, ChatRequest, CompletionRequest

# JSON nested deeper than this is refused before it is decoded.
MAX_DEPTH = 64
# A JSON string, or what begins as one and never ends. Possessive, so that no input makes it slow.
STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
# What opens is a step of 1, what closes of -1.
STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
# A wrong value is shown up to this length.
MAX_SHOWN = 60

# Fields of one of OpenAI's two endpoints: not unknown at the other one, but a mistake.
ENDPOINT_FIELDS = {*CompletionRequest.__struct_fields__, *ChatRequest.__struct_fields__}

Wanted = TypeVar("Wanted", bound=Struct)
# What becomes of a field that no request has: its name, and those that there are.
Unknown = Callable[[str, Iterable[str]], None]


def refuse(name: str, known: Iterable[str]) -> None:
    """Raise RequestError for an unknown field, with the nearest known one."""
    raise RequestError(f"unknown field {name!r}; {nearest(name, sorted({*known, *NOT_BUILT}))}", param=name)


def parse(
    body: bytes,
    wanted: type[Wanted],
    unknown: Unknown = refuse,
    not_built: Mapping[str, tuple[object, ...]] = NOT_BUILT,
) -> Wanted:
    """Read a request body; raises RequestError naming the field, what came and what would be right.

    An unknown field is left out if `unknown`, which is told of it, returns. not_built has known fields that are
    refused, with the values that ask for nothing.
    """
    fields = decode_object(body)
    known = wanted.__struct_fields__
    for name in [name for name in fields if name not in known]:
        value = fields.pop(name)
        if name in not_built:
            _check_nothing(name, value, not_built[name])
        elif name in ENDPOINT_FIELDS:
            _check_none(name, value)
        else:
            unknown(name, known)
    for message in _list(fields.get("messages")):
        _check_parts(message)
    if wanted is CompletionRequest and isinstance(fields.get("prompt"), list):
        prompts = fields["prompt"]
        if prompts and not all(isinstance(token, int) and not isinstance(token, bool) for token in prompts):
            raise RequestError(
                "prompt must be one string or one list of token ids; send one request per prompt", param="prompt"
            )
    return convert(fields, wanted)


def parse_either(body: bytes, unknown: Unknown = refuse) -> CompletionRequest | ChatRequest:
    """Read the body of whichever endpoint its prompt or messages belong to; raises RequestError as `parse` does."""
    fields = decode_object(body)
    if ("prompt" in fields) == ("messages" in fields):
        raise RequestError("exactly one of prompt and messages must be given", param="prompt")
    if "prompt" in fields:
        return parse(body, CompletionRequest, unknown)
    return parse(body, ChatRequest, unknown)


def convert(fields: dict[str, Any], wanted: type[Wanted]) -> Wanted:
    """Check the fields' types and bounds; raises RequestError naming the field."""
    try:
        # JSON's keys are strings, those of logit_bias stand for token ids.
        return msgspec.convert(fields, wanted, str_keys=True)
    except msgspec.ValidationError as error:
        param = _param(str(error))
        came = f"; {param} was {_shown(fields[param])}" if param in fields else ""
        raise RequestError(f"{error}{came}", param=param) from error


def decode_object(body: bytes) -> dict[str, Any]:
    """Read JSON that is an object; raises RequestError."""
    check_depth(body)
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"the body is not valid JSON: {error}", code="invalid_json") from error
    if not isinstance(fields, dict):
        raise RequestError("the body must be a JSON object", code="invalid_json")
    return fields


def check_depth(body: bytes) -> None:
    """Raise RequestError for JSON whose brackets nest too deep outside of strings, without decoding it."""
    brackets = STRING.sub(b"", body).translate(STEPS, delete=NO_BRACKETS)
    # Signed, the bytes are the steps themselves. A body of a million brackets takes 20 ms.
    if max(accumulate(memoryview(brackets).cast("b")), default=0) > MAX_DEPTH:
        raise RequestError(f"the body is nested deeper than {MAX_DEPTH}")


def _check_nothing(name: str, value: Any, neutral: tuple[object, ...]) -> None:
    """Raise RequestError for a known field whose value asks for something; one without such values has no effect."""
    if neutral and not _asks_for_nothing(value, neutral):
        raise RequestError(f"{name!r} is not supported yet; leave it out", param=name, code="unsupported_parameter")


def _check_none(name: str, value: Any) -> None:
    if value is not None:
        raise RequestError(f"{name!r} is a field of another endpoint; leave it out", param=name)


def _check_parts(message: Any) -> None:
    """Raise RequestError for content that is no text, by the name of its kind."""
    for part in _list(message.get("content")) if isinstance(message, dict) else ():
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind != "text":
            raise RequestError(
                f'messages: content of type {_shown(kind)} is not supported; send parts of type "text"',
                param="messages",
                code="unsupported_content",
            )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _asks_for_nothing(value: object, neutral: tuple[object, ...]) -> bool:
    # True == 1 in Python: a boolean must not pass for a number or a number for a boolean.
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in neutral)


def _shown(value: object) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _param(message: str) -> str | None:
    """Return the field that a msgspec error speaks of: it ends in a path, or names a missing field."""
    _, found, path = message.rpartition("`$.")
    if found:
        return path.rstrip("`").split("[")[0].split(".")[0]
    if message.startswith("Object missing required field `"):
        return message.split("`")[1]
    return None
