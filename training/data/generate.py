"""`specd data generate`: the target answers every user turn anew, through a running server.

Turns are answered in order, each after the answers before it; system and tool turns stay, and so do answers that call
tools, for what the tools said would else answer something else. A record that two sources have is asked once. With a
seed every answer is a function of the record and the flags: whatever ran beside it, and however often it was stopped.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from client.whole_answer import Answers, WholeAnswer, answers_of
from core.errors import RequestError, SpecdError
from training.data.answer_folder import AnswerFolder
from training.data.lines import MAX_LINE_BYTES, Problems, jsonl_files
from training.data.records import Message, Record, read_records

# Of statuses, what the server would say of the same request again.
REFUSED_FOR_GOOD = (400, 413, 422)


class Sampling(Struct, frozen=True):
    """How answers are drawn: what makes the answers of one folder alike. samples is the number for every record."""

    model: str | None = None
    max_tokens: int = 4096
    temperature: float = 1.0
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    samples: int = 1


class Work(Struct, frozen=True):
    """Where answers come from and go to; worker is (number, of how many), limit the most different records."""

    sources: list[Path]
    output: Path
    url: str
    api_key: str | None = None
    worker: tuple[int, int] = (1, 1)
    concurrency: int = 16
    limit: int | None = None
    patience_s: float = 300.0
    max_line_bytes: int = MAX_LINE_BYTES


class Progress(Struct):
    """What has been done; mutable. num_wanted is known before anything is asked; num_before was there at the start."""

    num_wanted: int = 0
    num_before: int = 0
    num_answered: int = 0
    num_refused: int = 0
    num_tokens: int = 0
    num_retries: int = 0


class Ask(Struct, frozen=True):
    """One record to be answered once."""

    record: Record
    sample: int
    key: str


async def generate(
    work: Work, sampling: Sampling, problems: Problems, progress: Progress, told: Callable[[str], None]
) -> None:
    """Answer what is not answered yet; `progress` is kept up to date, told gets a line for every record refused.

    Raises DataError for sources, folder or disk, QueueError if the server stays out of reach.
    """
    files = jsonl_files(work.sources)
    with AnswerFolder(work.output, work.worker, sampling) as folder:
        done = folder.answered()
        for ask in _asks(files, problems, work, sampling):
            progress.num_wanted += 1
            progress.num_before += ask.key in done
        # Bad lines were told once.
        asks = (ask for ask in _asks(files, Problems(lambda _: None), work, sampling) if ask.key not in done)
        try:
            async with answers_of(work.url, work.api_key, work.patience_s) as answers, asyncio.TaskGroup() as group:
                for _ in range(work.concurrency):
                    group.create_task(_answer_all(asks, answers, sampling, folder, progress, told))
        except* SpecdError as failed:
            raise failed.exceptions[0] from None


async def _answer_all(
    asks: Iterator[Ask],
    answers: Answers,
    sampling: Sampling,
    folder: AnswerFolder,
    progress: Progress,
    told: Callable[[str], None],
) -> None:
    for ask in asks:
        try:
            line = await _answered(ask, answers, sampling, progress, told)
        except RequestError as error:
            progress.num_refused += 1
            told(f"{_place(ask)}: the server refuses it: {error.message}")
            continue
        finally:
            progress.num_retries = answers.num_retries
        folder.add(line)
        progress.num_answered += 1


async def _answered(
    ask: Ask, answers: Answers, sampling: Sampling, progress: Progress, told: Callable[[str], None]
) -> dict[str, Any]:
    """Return the line of one record, all of its turns answered.

    An answer that ran out of tokens is the last, and so is the one before a turn that the server refuses for good.
    """
    record, line = ask.record, {"key": ask.key, "kind": ask.record.kind}
    if record.shape == "prompt":
        answer = await answers.completion(record.text, **_fields(sampling, ask, 0))
        progress.num_tokens += len(answer.token_ids)
        ids = {"prompt_ids": answer.prompt_ids, "answer_ids": answer.token_ids}
        return line | {"prompt": record.text, "answer": answer.text} | ids | {"finish_reason": answer.finish_reason}
    messages: list[dict[str, Any]] = []
    exchanges: list[dict[str, Any]] = []
    # Messages up to the last answer.
    num_answered = 0
    for index, message in enumerate(record.messages):
        if not _is_anew(record.messages, index):
            messages.append(message.mapping())
        if wants_answer(record, index):
            fields = _fields(sampling, ask, index) | ({"tools": list(record.tools)} if record.tools else {})
            try:
                answer = await answers.chat(messages, **fields)
            except RequestError as error:
                if not exchanges or error.status not in REFUSED_FOR_GOOD:
                    raise
                told(f"{_place(ask)}: ends after answer {len(exchanges)}, the server refuses more: {error.message}")
                del messages[num_answered:]
                break
            progress.num_tokens += len(answer.token_ids)
            messages.append({"role": "assistant", "content": answer.text})
            num_answered = len(messages)
            exchanges.append(_exchange(answer))
            if answer.finish_reason != "stop":
                break
    more = {"tools": list(record.tools)} if record.tools else {}
    return line | {"conversations": messages, "exchanges": exchanges} | more


def wants_answer(record: Record, index: int) -> bool:
    """Tell whether an answer is to follow message `index`: where one stood, after each of `turns`, and at the end."""
    messages = record.messages
    if messages[index].role not in ("user", "tool"):
        return False
    if index + 1 == len(messages) or record.shape == "turns":
        return True
    return _is_anew(messages, index + 1)


def _is_anew(messages: tuple[Message, ...], index: int) -> bool:
    """Tell whether a message is an answer that the target has to give anew."""
    if messages[index].role != "assistant" or "tool_calls" in messages[index].extra or index == 0:
        return False
    return messages[index - 1].role in ("user", "tool") and not (
        index + 1 < len(messages) and messages[index + 1].role == "tool"
    )


def _asks(files: list[Path], problems: Problems, work: Work, sampling: Sampling) -> Iterator[Ask]:
    """Yield this worker's asks, each once, in the order of the sources."""
    seen: set[bytes] = set()
    for record in read_records(files, problems, work.max_line_bytes):
        content = _content_hash(record)
        if content in seen or not _is_answerable(record):
            continue
        if len(seen) == work.limit:
            return
        seen.add(content)
        for sample in range(sampling.samples):
            key = f"{content.hex()}-{sample}"
            number, count = work.worker
            if int.from_bytes(_digest(key.encode()), "big") % count == number - 1:
                yield Ask(record, sample, key)


def _place(ask: Ask) -> str:
    return f"{ask.record.path}:{ask.record.number}"


def _is_answerable(record: Record) -> bool:
    return record.shape == "prompt" or any(wants_answer(record, index) for index in range(len(record.messages)))


def _content_hash(record: Record) -> bytes:
    """Return a hash of all that is asked: answers that are given anew do not count."""
    asked = [one.mapping() for index, one in enumerate(record.messages) if not _is_anew(record.messages, index)]
    text = record.text if record.shape == "prompt" else ""
    return _digest(msgspec.json.encode([asked, list(record.tools), text, record.shape == "turns"], order="sorted"))


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _fields(sampling: Sampling, ask: Ask, index: int) -> dict[str, Any]:
    """Return a request's fields; its seed is drawn from the run's, the record and the turn."""
    fields = msgspec.structs.asdict(sampling)
    del fields["samples"]
    if sampling.seed is not None:
        fields["seed"] = int.from_bytes(_digest(f"{sampling.seed} {ask.key} {index}".encode())[:4], "big") >> 1
    return fields


def _exchange(answer: WholeAnswer) -> dict[str, Any]:
    return {"prompt_ids": answer.prompt_ids, "answer_ids": answer.token_ids, "finish_reason": answer.finish_reason}
