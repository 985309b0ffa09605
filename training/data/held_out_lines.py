"""held_out.jsonl: the records of the held-out part as `specd eval` and `specd calibrate` ask them.

A line says what its record says, in a shape of training/data/records.py, and `kind` what it is about; token ids only
where it is a recorded prompt's. It is written from its beginning by every run, a line at a time, under another name,
and moved into place whole.
"""

import os
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from core.errors import DataError
from training.data.records import Record

HELD_OUT_FILE = "held_out.jsonl"


class HeldOutLines:
    """The file in the making, for as long as a `with` lasts; mutable: `add` writes. Raises DataError for the disk.

    It is in its place once the block ends without an error; without a line there is none.
    """

    def __init__(self, folder: Path) -> None:
        self._path, self._part = folder / HELD_OUT_FILE, folder / f".{HELD_OUT_FILE}.part"
        self._num_lines = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._part.open("wb")
        except OSError as error:
            raise self._unwritten(error) from error

    def __enter__(self) -> "HeldOutLines":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())
            self._file.close()
            if kind is None and self._num_lines:
                self._part.replace(self._path)
            elif kind is None:
                self._path.unlink(missing_ok=True)
        except OSError as problem:
            raise self._unwritten(problem) from problem
        finally:
            self._part.unlink(missing_ok=True)

    def add(self, record: Record) -> None:
        """Write the line of a record that gives documents; text of which nothing can be asked has none."""
        if record.shape == "text" and len(record.text) < 2:
            return
        try:
            self._file.write(msgspec.json.encode(fields_of(record)) + b"\n")
        except OSError as error:
            raise self._unwritten(error) from error
        self._num_lines += 1

    def _unwritten(self, error: OSError) -> DataError:
        return DataError(f"cannot write {self._path}: {error.strerror}; what is written so far can be gone on with")


def fields_of(record: Record) -> dict[str, Any]:
    """Return a line that reads as the record does."""
    if record.messages:
        tools = {"tools": list(record.tools)} if record.tools else {}
        return {"kind": record.kind, "messages": [one.mapping() for one in record.messages]} | tools
    if record.shape == "text":
        return {"kind": record.kind, "text": record.text}
    (exchange,) = record.exchanges
    ids = {"prompt_ids": exchange.prompt_ids} if exchange.prompt_ids else {}
    return {"kind": record.kind, "prompt": record.text, "answer": exchange.answer} | ids
