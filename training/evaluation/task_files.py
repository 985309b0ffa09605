"""Read what to ask from JSONL: DeepSpec's task files, chat transcripts, plain texts; and specd's own prompt files.

A task is a file, its name without the ending, or what a row says in `domain`. Of each row one of these is read:

    turns           texts of a user, as in DeepSpec's eval_datasets
    messages        OpenAI's: role, content, and whatever else the chat template reads, such as tool_calls
    conversations   the same, or ShareGPT's from and value
    prompt, text    plain text to go on with; a text is cut in its middle, a prompt is taken whole

and beside it answer (a number), tests (pairs of a call and the repr of its value), max_tokens, tools, domain. Keys that
are not named here are left alone. A file that ends in .json holds texts by task, as bench/prompts/demo.json does.
"""

import random
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from core.errors import ConfigError
from training.evaluation.conversation import Conversation, Judge, Message
from training.evaluation.right_answer import calls_give, final_number, number_is

LINES, TEXTS = ".jsonl", ".json"
# DeepSpec's order of a task's rows, so that the same first rows are asked.
SHUFFLE_SEED = 980406
CONTENT = ("turns", "messages", "conversations", "prompt", "text")
ASSISTANT = "assistant"
SHARE_GPT = {"human": "user", "gpt": ASSISTANT, "system": "system", "tool": "tool"}


class Row(Struct, frozen=True):
    """One line, checked by type only."""

    turns: Annotated[tuple[str, ...], Meta(min_length=1)] | None = None
    messages: Annotated[tuple[dict[str, Any], ...], Meta(min_length=1)] | None = None
    conversations: Annotated[tuple[dict[str, Any], ...], Meta(min_length=1)] | None = None
    prompt: Annotated[str, Meta(min_length=1)] | None = None
    text: Annotated[str, Meta(min_length=1)] | None = None
    answer: str | int | float | None = None
    tests: Annotated[tuple[tuple[str, str], ...], Meta(min_length=1)] | None = None
    tools: tuple[dict[str, Any], ...] = ()
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    domain: Annotated[str, Meta(min_length=1)] | None = None


class Texts(Struct, frozen=True):
    """Prompts of one task in a .json file, and how long an answer to them may be."""

    max_tokens: Annotated[int, Meta(ge=1)]
    prompts: Annotated[tuple[str, ...], Meta(min_length=1)]


class Reading(Struct, frozen=True):
    """How to read. limit is the most rows of a file, None takes all; every_turn asks for all answers of a row, not only
    the first of `turns` and the last of a transcript; skips_malformed leaves out what cannot be read.
    """

    limit: Annotated[int, Meta(ge=1)] | None = None
    every_turn: bool = False
    skips_malformed: bool = False


class Found(Struct, frozen=True):
    """What was read, and a sentence for each line that was left out."""

    conversations: tuple[Conversation, ...]
    malformed: tuple[str, ...]


def read_tasks(paths: Sequence[Path], reading: Reading) -> Found:
    """Read task files and folders of them; raises ConfigError, with the line's number for a line."""
    conversations: list[Conversation] = []
    malformed: list[str] = []
    for path in task_files(paths):
        if path.suffix == TEXTS:
            conversations += _texts(path, reading)
            continue
        found = list(_lines(path, reading, malformed))
        random.Random(SHUFFLE_SEED).shuffle(found)  # noqa: S311, the order must be DeepSpec's
        if not found:
            raise ConfigError(f"{path} has no line that can be asked")
        conversations += found[: reading.limit]
    return Found(tuple(conversations), tuple(malformed))


def task_files(paths: Sequence[Path]) -> list[Path]:
    """Return the files of paths, those of folders in the order of their names."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(path.glob(f"*{LINES}"))
            if not inside:
                raise ConfigError(f"{path} holds no {LINES} file")
            files += inside
        elif not path.exists():
            raise ConfigError(f"there is no task file {path}")
        elif path.suffix not in (LINES, TEXTS):
            raise ConfigError(
                f"{path} is of no known kind: {LINES} holds one JSON object per line, {TEXTS} texts by task"
            )
        else:
            files.append(path)
    return files


def read_row(line: bytes, task: str, place: str, *, every_turn: bool) -> Conversation:
    """Read one line; raises ValueError with a sentence of what is wrong."""
    try:
        row = msgspec.json.decode(line, type=Row)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from None
    kinds = [name for name in CONTENT if getattr(row, name) is not None]
    if len(kinds) != 1:
        raise ValueError(f"needs one of {', '.join(CONTENT)}, has {' and '.join(kinds) or 'none'}")
    made = Conversation(row.domain or task, place, tools=row.tools, max_tokens=row.max_tokens, is_right=_judge(row))
    if row.prompt is not None or row.text is not None:
        return replace(made, text=row.prompt or _first_half(row.text or ""))
    if row.turns is not None:
        asked = row.turns if every_turn else row.turns[:1]
        return replace(made, turns=tuple(({"role": "user", "content": text},) for text in asked))
    messages = [_message(each) for each in row.messages or row.conversations or ()]
    return replace(made, turns=transcript_turns(messages, every_turn=every_turn), is_own=False)


def transcript_turns(messages: Sequence[Message], *, every_turn: bool) -> tuple[tuple[Message, ...], ...]:
    """Cut a transcript before each of its answers, or before its last only; raises ValueError if there is none.

    A transcript that does not end with an answer has its last place at its end.
    """
    places = [index for index, message in enumerate(messages) if message["role"] == ASSISTANT and index]
    if messages[-1]["role"] != ASSISTANT:
        places.append(len(messages))
    if not places:
        raise ValueError("has nothing before its answer")
    places = places if every_turn else places[-1:]
    return tuple(tuple(messages[start:end]) for start, end in zip([0, *places[:-1]], places, strict=True))


def _texts(path: Path, reading: Reading) -> Iterator[Conversation]:
    """Yield the prompts of a .json file in their order."""
    try:
        tasks = msgspec.json.decode(path.read_bytes(), type=dict[str, Texts])
    except (OSError, UnicodeDecodeError, msgspec.DecodeError) as error:
        raise ConfigError(
            f'{path} must hold prompts as {{"task": {{"max_tokens": 100, "prompts": ["..."]}}}}: {error}'
        ) from error
    for task, each in tasks.items():
        for number, text in enumerate(each.prompts[: reading.limit], 1):
            yield Conversation(task, f"{path.name} {task} {number}", text=text, max_tokens=each.max_tokens)


def _lines(path: Path, reading: Reading, malformed: list[str]) -> Iterator[Conversation]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{path.name} line {number}"
        try:
            yield read_row(line, path.stem, place, every_turn=reading.every_turn)
        except ValueError as error:
            if not reading.skips_malformed:
                raise ConfigError(f"{path}, line {number}: {error}; skip such lines with --malformed skip") from error
            malformed.append(f"{place}: {error}")


def _message(message: dict[str, Any]) -> Message:
    if "role" not in message and "from" in message:
        role, content = SHARE_GPT.get(message["from"], message["from"]), message.get("value")
        message = {"role": role, "content": content}
    if "role" not in message:
        raise ValueError(f"has a message without a role: {sorted(message)}")
    content = message.get("content")
    if content is None and message.get("tool_calls"):
        return {**message, "content": ""}
    if content is None or not isinstance(content, str):
        raise ValueError(f"has a message of {message['role']!r} whose content is no text")
    return message


def _judge(row: Row) -> Judge | None:
    if row.tests is not None:
        return calls_give(row.tests)
    if row.answer is None:
        return None
    number = final_number(row.answer) if isinstance(row.answer, str) else Fraction(str(row.answer))
    # Answers in words are for people.
    return None if number is None else number_is(number)


def _first_half(text: str) -> str:
    return text[: max(1, len(text) // 2)]
