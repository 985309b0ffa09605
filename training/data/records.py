"""What one line of training data says, whichever of the field's shapes it has.

{"conversations": [{"from"|"role": ..., "value"|"content": ...}]}   ShareGPT; with role and content DeepSpec's
{"messages": [{"role": ..., "content": ...}], "tools": [...]}       OpenAI's; content may be text parts
{"turns": ["...", ...]}                                             user turns alone: DeepSpec's task files
{"prompt": "...", "answer": "..."}                                  rendered text, as the service records it
{"text": "..."}                                                     plain text

`exchanges` beside any of the first two, and `prompt_ids` and `answer_ids` beside the fourth, are the token ids that
the target saw and wrote. `kind` says what a line is about; without it the file's name does.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from training.data.lines import MAX_LINE_BYTES, Line, Problems, read_lines

SHAPES = ("conversations", "messages", "turns", "prompt", "text")
ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "tool": "tool",
    "observation": "tool",
}
MAX_TOKEN_ID = 2**31 - 1
# The `key` of an answer: a hash of what was asked, and the sample's number.
SAMPLE_KEY = re.compile(r"([0-9a-f]{32})-\d+")


class Message(Struct, frozen=True):
    """One turn; extra is what a template may read besides, such as tool_calls."""

    role: str
    content: str
    extra: dict[str, Any] = {}

    def mapping(self) -> dict[str, Any]:
        """Return it as chat templates and servers take it."""
        return {"role": self.role, "content": self.content, **self.extra}


class Exchange(Struct, frozen=True, omit_defaults=True):
    """A prompt and what the target wrote to it; ids may be missing, then the texts are encoded anew."""

    prompt_ids: tuple[int, ...] = ()
    answer_ids: tuple[int, ...] = ()
    finish_reason: str = ""
    prompt: str = ""
    answer: str = ""


class Record(Struct, frozen=True):
    """One line: messages, exchanges, or text. Turns are user messages, each of which wants an answer.

    sample_of names what the line is one of several answers to (`specd data generate`), "" where nothing is known of it.
    """

    path: Path
    number: int
    kind: str
    shape: str
    messages: tuple[Message, ...] = ()
    exchanges: tuple[Exchange, ...] = ()
    text: str = ""
    tools: tuple[dict[str, Any], ...] = ()
    sample_of: str = ""


class BadLineError(Exception):
    """A line that is JSON, but nothing we know; the message says what would be right."""


def read_records(files: list[Path], problems: Problems, max_bytes: int = MAX_LINE_BYTES) -> Iterator[Record]:
    """Yield the records of files in their order; bad lines go to `problems`. Raises what `read_lines` raises."""
    for path in files:
        for line in read_lines(path, problems, max_bytes):
            try:
                record = to_record(line)
            except BadLineError as error:
                problems.add(path, line.number, str(error))
            else:
                yield record


def to_record(line: Line) -> Record:
    """Return what a line says; raises BadLineError."""
    fields = line.fields
    shape = next((name for name in SHAPES if name in fields), None)
    if shape is None:
        raise BadLineError(f"must have one of {', '.join(SHAPES)}, has {', '.join(sorted(fields)[:8]) or 'nothing'}")
    kind, sample_of = fields.get("kind"), _sample_of(fields.get("key"))
    place = (line.path, line.number, kind if isinstance(kind, str) and kind else line.path.stem, shape)
    if shape == "text":
        return Record(*place, text=_text(fields["text"], "text"))
    if shape == "prompt":
        return Record(*place, exchanges=_recorded(fields), text=_text(fields["prompt"], "prompt"), sample_of=sample_of)
    if shape == "turns":
        turns = _array(fields["turns"], "turns")
        return Record(*place, tuple(Message("user", _text(one, f"turns[{i}]")) for i, one in enumerate(turns)))
    messages = _array(fields[shape], shape)
    tools = fields.get("tools") or []
    if not isinstance(tools, list) or not all(isinstance(one, dict) for one in tools):
        raise BadLineError("tools must be an array of objects")
    exchanges = fields.get("exchanges") or []
    if not isinstance(exchanges, list):
        raise BadLineError(f"exchanges must be an array, got {exchanges!r:.40}")
    return Record(
        *place,
        tuple(_message(one, f"{shape}[{index}]") for index, one in enumerate(messages)),
        tuple(_exchange(one, f"exchanges[{i}]") for i, one in enumerate(exchanges)),
        tools=tuple(tools),
        sample_of=sample_of,
    )


def _sample_of(key: object) -> str:
    found = SAMPLE_KEY.fullmatch(key) if isinstance(key, str) else None
    return found[1] if found else ""


def token_ids(given: object, where: str) -> tuple[int, ...]:
    """Return what a line gives as ids; raises BadLineError, naming the place `where`."""
    if not isinstance(given, list) or not all(type(one) is int and 0 <= one <= MAX_TOKEN_ID for one in given):
        raise BadLineError(f"{where} must be an array of token ids")
    return tuple(given)


def _message(given: object, where: str) -> Message:
    if not isinstance(given, dict):
        raise BadLineError(f"{where} must be an object with role and content, or from and value")
    role, content = given.get("role", given.get("from")), given.get("content", given.get("value"))
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise BadLineError(f"{where}: role (or from) must be one of {', '.join(ROLES)}, got {role!r}")
    extra = {name: given[name] for name in ("tool_calls", "tool_call_id", "name") if given.get(name)}
    calls = extra.get("tool_calls", [])
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise BadLineError(f"{where}: tool_calls must be an array of objects")
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else None for part in content]
        if not all(isinstance(part, str) for part in parts):
            raise BadLineError(f"{where}: content may hold text parts only")
        content = "".join(str(part) for part in parts)
    if content is None and "tool_calls" in extra:
        content = ""
    if not isinstance(content, str):
        raise BadLineError(f"{where}: content (or value) must be text")
    return Message(ROLES[role.lower()], content, extra)


def _recorded(fields: Mapping[str, Any]) -> tuple[Exchange, ...]:
    if "answer" not in fields:
        return ()
    return (
        Exchange(
            token_ids(fields.get("prompt_ids", []), "prompt_ids"),
            token_ids(fields.get("answer_ids", []), "answer_ids"),
            str(fields.get("finish_reason", "")),
            _text(fields["prompt"], "prompt"),
            _text(fields["answer"], "answer"),
        ),
    )


def _exchange(given: object, where: str) -> Exchange:
    if not isinstance(given, dict):
        raise BadLineError(f"{where} must be an object with prompt_ids and answer_ids")
    prompt_ids, answer_ids = (token_ids(given.get(name), f"{where}.{name}") for name in ("prompt_ids", "answer_ids"))
    if not (prompt_ids and answer_ids):
        raise BadLineError(f"{where} must have prompt_ids and answer_ids, neither of them empty")
    return Exchange(prompt_ids, answer_ids, str(given.get("finish_reason", "")))


def _array(given: object, where: str) -> list[Any]:
    if not isinstance(given, list) or not given:
        raise BadLineError(f"{where} must be an array with something in it, got {given!r:.40}")
    return given


def _text(given: object, where: str) -> str:
    if not isinstance(given, str) or not given.strip():
        raise BadLineError(f"{where} must be text, and not empty")
    return given
