"""The folder that generated answers lie in: a file per worker, and what all of them have answered so far.

A line is written in one call and is whole or, after a kill or on a full disk, is cut off by the next start. Two
processes never write to one file, and all that run at once agree on how many they are.
"""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import msgspec
from msgspec import Struct

from core.errors import DataError
from training.data.shard_writer import write_durable

CHOICES_FILE = "generation.json"
LOCK_FILE = ".workers.lock"


class Answered(Struct):
    """Of a line all that tells what it answers."""

    key: str


class AnswerFolder:
    """One worker's hold on the folder, for as long as a `with` lasts; mutable: `add` writes.

    worker is (number, of how many), from 1. Raises DataError if others hold what it needs, or made it with other flags.
    """

    def __init__(self, folder: Path, worker: tuple[int, int], choices: Struct) -> None:
        self._folder, (number, count) = folder, worker
        self._path = folder / f"answers-{number:04d}-of-{count:04d}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / LOCK_FILE).open("a+b")
            self._file = self._path.open("a+b")
        except OSError as error:
            raise DataError(f"cannot write in {folder}: {error.strerror}") from error
        self._count = count
        self._choices = msgspec.json.encode(choices)

    def __enter__(self) -> "AnswerFolder":
        try:
            self._hold()
            self._agree_on_choices()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def answered(self) -> set[str]:
        """Return the keys of all that any worker has answered; cuts off what a stop left of this one's last line."""
        self._cut_off()
        keys: set[str] = set()
        for path in sorted(self._folder.glob("answers-*.jsonl")):
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    # Another worker's last line may be in the making.
                    if line.endswith(b"\n"):
                        keys.add(_key_of(line, path, number))
        return keys

    def add(self, line: dict[str, Any]) -> None:
        """Write one line; raises DataError if the disk does not take it, and then leaves none of it."""
        data = msgspec.json.encode(line) + b"\n"
        size = os.fstat(self._file.fileno()).st_size
        try:
            num_written, problem = os.write(self._file.fileno(), data), "the disk is full"
        except OSError as error:
            num_written, problem = 0, error.strerror or str(error)
        if num_written != len(data):
            os.ftruncate(self._file.fileno(), size)
            raise DataError(f"cannot write {self._path}: {problem}; run it again to go on")

    def _hold(self) -> None:
        if not _locks(self._file, fcntl.LOCK_EX):
            raise DataError(f"another process writes {self._path}; give each its own --worker I/N")
        if _locks(self._lock, fcntl.LOCK_EX):
            # Alone: whoever comes while this one runs has to agree with it.
            self._lock.truncate(0)
            self._lock.write(str(self._count).encode())
            self._lock.flush()
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        self._lock.seek(0)
        if (count := self._lock.read()) != str(self._count).encode():
            raise DataError(
                f"{self._folder} is being filled by {count.decode()} workers; take --worker I/{count.decode()}"
            )

    def _agree_on_choices(self) -> None:
        path = self._folder / CHOICES_FILE
        if not path.exists():
            write_durable(path, self._choices)
        if path.read_bytes() != self._choices:
            raise DataError(
                f"{self._folder} was made with other flags, {path.read_text()}; take the same, or another --output"
            )

    def _cut_off(self) -> None:
        self._file.seek(0)
        size = sum(len(line) for line in self._file if line.endswith(b"\n"))
        self._file.truncate(size)

    def _close(self) -> None:
        self._file.close()
        self._lock.close()


def _locks(file: BinaryIO, how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _key_of(line: bytes, path: Path, number: int) -> str:
    try:
        return msgspec.json.decode(line, type=Answered).key
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}:{number} is no answer of `specd data generate`: {error}; remove the line") from error
