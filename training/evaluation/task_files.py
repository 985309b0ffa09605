"""Read what to ask: DeepSpec's task files, chat transcripts and plain texts as JSONL, and specd's own prompt files.

Lines are those of training data (training/data/records.py). A task is a file, its name without the ending, or what a
line says as its `kind`. Of each line is asked:

    turns                     texts of a user, as in DeepSpec's eval_datasets: the first, or all of them
    messages, conversations   a transcript: its last answer, or all of them
    prompt                    text to go on with, special tokens written out; its `prompt_ids`, where it has them
    text                      the first half of a text

A line of the first two may say besides what is right, an `answer` (a number) or `tests` (pairs of a call and the repr
of its value); any line how long an answer may be, `max_tokens`. A file that ends in .json holds texts by task, as
bench/prompts/demo.json does.
"""

import random
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from core.errors import ConfigError
from training.data.lines import Line, Problems, jsonl_files, read_lines
from training.data.records import BadLineError, to_record, token_ids
from training.evaluation.conversation import Conversation, Judge, Message
from training.evaluation.right_answer import calls_give, final_number, number_is

LINES, TEXTS = ".jsonl", ".json"
# DeepSpec's order of a task's rows, so that the same first rows are asked.
SHUFFLE_SEED = 980406
ASSISTANT = "assistant"


class Terms(Struct, frozen=True):
    """What a line says besides what is asked."""

    answer: str | int | float | None = None
    tests: Annotated[tuple[tuple[str, str], ...], Meta(min_length=1)] | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None


class Texts(Struct, frozen=True):
    """Prompts of one task in a .json file, and how long an answer to them may be."""

    max_tokens: Annotated[int, Meta(ge=1)]
    prompts: Annotated[tuple[str, ...], Meta(min_length=1)]


class Reading(Struct, frozen=True):
    """How to read. limit is the most rows of a file, None takes all; every_turn asks for all answers of a row, not only
    the first of `turns` and the last of a transcript; skips_bad_lines leaves out what cannot be read.
    """

    limit: Annotated[int, Meta(ge=1)] | None = None
    every_turn: bool = False
    skips_bad_lines: bool = False


class Found(Struct, frozen=True):
    """What was read; sentences about the first lines that were left out, and how many lines these were in all."""

    conversations: tuple[Conversation, ...]
    bad_lines: tuple[str, ...]
    num_bad: int


def read_tasks(paths: Sequence[Path], reading: Reading) -> Found:
    """Read task files and folders of them; raises ConfigError, and DataError with the number of a line."""
    conversations: list[Conversation] = []
    told: list[str] = []
    problems = Problems(told.append, are_fatal=not reading.skips_bad_lines)
    for path in task_files(paths):
        if path.suffix == TEXTS:
            conversations += _texts(path, reading)
            continue
        found = list(_conversations(path, problems, reading))
        random.Random(SHUFFLE_SEED).shuffle(found)  # noqa: S311, the order must be DeepSpec's
        if not found:
            raise ConfigError(f"{path} has no line that can be asked")
        conversations += found[: reading.limit]
    return Found(tuple(conversations), tuple(told), problems.num)


def task_files(paths: Sequence[Path]) -> list[Path]:
    """Return the files of paths, those of folders in the order of their names; raises ConfigError and DataError."""
    for path in paths:
        if path.is_file() and path.suffix not in (LINES, TEXTS):
            raise ConfigError(
                f"{path} is of no known kind: {LINES} holds one JSON object per line, {TEXTS} texts by task"
            )
    return jsonl_files(list(paths)) if paths else []


def to_conversation(line: Line, *, every_turn: bool) -> Conversation:
    """Return what a line asks; raises BadLineError with a word on what would be right."""
    record = to_record(line)
    try:
        terms = msgspec.convert({name: line.fields.get(name) for name in Terms.__struct_fields__}, Terms)
    except msgspec.ValidationError as error:
        raise BadLineError(str(error)) from None
    place = f"{line.path.name} line {line.number}"
    messages = [message.mapping() for message in record.messages]
    if record.shape in ("prompt", "text"):
        text = record.text if record.shape == "prompt" else record.text[: len(record.text) // 2]
        if not text:
            raise BadLineError(f"{record.shape} is too short to go on with")
        is_rendered = record.shape == "prompt"
        return Conversation(
            record.kind,
            place,
            text=text,
            max_tokens=terms.max_tokens,
            is_rendered=is_rendered,
            prompt_ids=token_ids(line.fields.get("prompt_ids", []), "prompt_ids") if is_rendered else (),
        )
    is_own = record.shape == "turns"
    turns = (
        tuple((message,) for message in (messages if every_turn else messages[:1]))
        if is_own
        else transcript_turns(messages, every_turn=every_turn)
    )
    return Conversation(
        record.kind,
        place,
        turns,
        is_own,
        tools=record.tools,
        max_tokens=terms.max_tokens,
        is_right=_judge(terms),
    )


def transcript_turns(messages: Sequence[Message], *, every_turn: bool) -> tuple[tuple[Message, ...], ...]:
    """Cut a transcript before each of its answers, or before its last only; raises BadLineError if there is none.

    A transcript that does not end with an answer has its last place at its end.
    """
    places = [index for index, message in enumerate(messages) if message["role"] == ASSISTANT and index]
    if messages[-1]["role"] != ASSISTANT:
        places.append(len(messages))
    if not places:
        raise BadLineError("has nothing before its answer")
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


def _conversations(path: Path, problems: Problems, reading: Reading) -> Iterator[Conversation]:
    for line in read_lines(path, problems):
        try:
            found = to_conversation(line, every_turn=reading.every_turn)
        except BadLineError as error:
            problems.add(path, line.number, str(error))
        else:
            yield found


def _judge(row: Terms) -> Judge | None:
    if row.tests is not None:
        return calls_give(row.tests)
    if row.answer is None:
        return None
    number = final_number(row.answer) if isinstance(row.answer, str) else Fraction(str(row.answer))
    # Answers in words are for people.
    return None if number is None else number_is(number)
