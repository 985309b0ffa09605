"""The OpenAI surface as types: what requests may say, what is refused by name, and what answers look like.

Every known field that is not built yet is refused with a 400 that names it, unless its value asks for nothing.
"""

import re
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from core.config import nearest
from core.errors import RequestError
from core.types import Sampling

# JSON nested deeper than this is refused before it is decoded.
MAX_DEPTH = 64
# A JSON string, or what begins as one and never ends. Possessive, so that no input makes it slow.
STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
# Known fields that are not built yet, with the values that ask for nothing.
NOT_BUILT: dict[str, tuple[object, ...]] = {
    "best_of": (None, 1),
    "echo": (None, False),
    "frequency_penalty": (None, 0),
    "function_call": (None, "none"),
    "functions": (None, []),
    "guided_json": (None,),
    "logit_bias": (None, {}),
    "logprobs": (None, False),
    "min_p": (None, 0),
    "min_tokens": (None, 0),
    "modalities": (None, ["text"]),
    "n": (None, 1),
    "parallel_tool_calls": (None, True, False),
    "presence_penalty": (None, 0),
    "reasoning_effort": (None,),
    "repetition_penalty": (None, 1),
    "response_format": (None, {"type": "text"}),
    "return_token_ids": (None, False),
    "seed": (None,),
    "speculation": (None,),
    "stop": (None, [], ""),
    "suffix": (None, ""),
    "tool_choice": (None, "none"),
    "tools": (None, []),
    "top_logprobs": (None, 0),
    # Known and without effect here, whatever they say.
    "metadata": (),
    "service_tier": (),
    "store": (),
}
WITHOUT_EFFECT = ("metadata", "service_tier", "store")


# The bounds of Sampling.max_tokens.
MAX_TOKENS = 131072
MaxTokens = Annotated[int, Meta(ge=1, le=MAX_TOKENS)]


class StreamOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Options of a streamed answer."""

    include_usage: bool = False


class TextPart(Struct, frozen=True, tag_field="type", tag="text"):
    """One text part of a message's content."""

    text: str


class Message(Struct, frozen=True):
    """One chat message; content is text or a list of text parts."""

    role: str
    content: str | list[TextPart]

    @property
    def text(self) -> str:
        """The message's text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class SharedFields(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What both endpoints take."""

    model: str | None = None
    max_tokens: MaxTokens | None = None
    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] | None = None
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    stop_token_ids: Annotated[tuple[int, ...], Meta(max_length=64)] | None = None
    ignore_eos: bool = False
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None

    def sampling(self, max_tokens: int) -> Sampling:
        """Return the engine's form of the sampling fields."""
        return Sampling(
            max_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            # -1 is vLLM's word for no limit.
            top_k=max(0, self.top_k or 0),
            stop_token_ids=self.stop_token_ids or (),
            ignore_eos=self.ignore_eos,
        )


class CompletionRequest(SharedFields, frozen=True, kw_only=True):
    """POST /v1/completions; the prompt is text or token ids."""

    prompt: str | list[int]


class ChatRequest(SharedFields, frozen=True, kw_only=True):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: MaxTokens | None = None


Wanted = TypeVar("Wanted", bound=SharedFields)


def parse(body: bytes, wanted: type[Wanted]) -> Wanted:
    """Read a request body; raises RequestError naming the field, what came and what would be right."""
    fields = _decode_object(body)
    known = wanted.__struct_fields__
    for name in list(fields):
        if name in known:
            continue
        if name not in NOT_BUILT:
            raise RequestError(f"unknown field {name!r}; {nearest(name, sorted({*known, *NOT_BUILT}))}", param=name)
        value = fields.pop(name)
        if name not in WITHOUT_EFFECT and not _asks_for_nothing(value, NOT_BUILT[name]):
            raise RequestError(f"{name!r} is not supported yet; leave it out", param=name, code="unsupported_parameter")
    if wanted is CompletionRequest and isinstance(fields.get("prompt"), list):
        prompts = fields["prompt"]
        if prompts and not all(isinstance(token, int) and not isinstance(token, bool) for token in prompts):
            raise RequestError(
                "prompt must be one string or one list of token ids; send one request per prompt", param="prompt"
            )
    return convert(fields, wanted)


def convert(fields: dict[str, Any], wanted: type[Wanted]) -> Wanted:
    """Check the fields' types and bounds; raises RequestError naming the field."""
    try:
        return msgspec.convert(fields, wanted)
    except msgspec.ValidationError as error:
        raise RequestError(str(error), param=_param(str(error))) from error


def _decode_object(body: bytes) -> dict[str, Any]:
    if _depth(body) > MAX_DEPTH:
        raise RequestError(f"the body is nested deeper than {MAX_DEPTH}")
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"the body is not valid JSON: {error}", code="invalid_json") from error
    if not isinstance(fields, dict):
        raise RequestError("the body must be a JSON object", code="invalid_json")
    return fields


def _depth(body: bytes) -> int:
    """Return how deep brackets nest outside of strings, without decoding; counts no further than it matters."""
    depth = deepest = 0
    for byte in STRING.sub(b"", body).translate(None, delete=NO_BRACKETS):
        depth += 1 if byte in b"[{" else -1
        deepest = max(deepest, depth)
        if deepest > MAX_DEPTH:
            break
    return deepest


def _asks_for_nothing(value: object, neutral: tuple[object, ...]) -> bool:
    # True == 1 in Python: a boolean must not pass for a number or a number for a boolean.
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in neutral)


def _param(message: str) -> str | None:
    """Return the field that a msgspec error speaks of: it ends in a path, or names a missing field."""
    _, found, path = message.rpartition("`$.")
    if found:
        return path.rstrip("`").split("[")[0].split(".")[0]
    if message.startswith("Object missing required field `"):
        return message.split("`")[1]
    return None
