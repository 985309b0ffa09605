"""Lines of JSONL files, bounded in length, and what is wrong with some of them.

A file may begin with a byte order mark, end its lines the way Windows does and have blank ones. Whatever else is no
JSON object is a problem with a file, a line number and a word on what would be right.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from core.errors import DataError

MAX_LINE_BYTES = 16 << 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Problems told one by one; the others are only counted.
MAX_TOLD = 20
LONE_SURROGATE = re.compile(rb"(?i)\\ud[89ab][0-9a-f]{2}(?!\\ud[c-f])|(?<!\\ud[89ab][0-9a-f]{2})\\ud[c-f][0-9a-f]{2}")


class Line(Struct, frozen=True):
    """One JSON object and where it stands; number counts from 1."""

    path: Path
    number: int
    fields: dict[str, Any]


class Problems:
    """What is done about bad lines: told and counted, or, if they are fatal, told as the DataError that ends all.

    tell gets a line of text; mutable.
    """

    def __init__(self, tell: Callable[[str], None], *, are_fatal: bool = False) -> None:
        self._tell, self._are_fatal = tell, are_fatal
        self.counts: Counter[str] = Counter()

    @property
    def num(self) -> int:
        """Bad lines so far."""
        return self.counts.total()

    def add(self, path: Path, number: int, message: str) -> None:
        """Count a bad line; raises DataError if one is enough."""
        told = f"{path}:{number}: {message}"
        if self._are_fatal:
            raise DataError(f"{told} (--bad-lines skip leaves such lines out)")
        self.counts[str(path)] += 1
        if self.num <= MAX_TOLD:
            self._tell(told)
        if self.num == MAX_TOLD:
            self._tell("further bad lines are only counted")


def jsonl_files(sources: list[Path]) -> list[Path]:
    """Return the files of all sources: of a folder, every *.jsonl beneath it by name. Raises DataError for none."""
    files: list[Path] = []
    for source in sources:
        found = sorted(source.rglob("*.jsonl")) if source.is_dir() else [source]
        if not found:
            raise DataError(f"no *.jsonl file in {source}")
        if not all(path.is_file() for path in found):
            raise DataError(f"there is no file or folder {source}")
        files.extend(path for path in found if path not in files)
    return files


def read_lines(path: Path, problems: Problems, max_bytes: int = MAX_LINE_BYTES) -> Iterator[Line]:
    """Yield a file's JSON objects; raises DataError if it cannot be read, or for a bad line if these are fatal."""
    try:
        with path.open("rb") as file:
            number = 0
            while raw := file.readline(max_bytes + 1):
                number += 1
                if number == 1:
                    raw = raw.removeprefix(BYTE_ORDER_MARK)
                if len(raw) > max_bytes and not raw.endswith(b"\n"):
                    _skip_line(file)
                    problems.add(path, number, f"the line is longer than {max_bytes} bytes; split it, or leave it out")
                elif raw.strip():
                    fields = _fields(raw, path, number, problems)
                    if fields is not None:
                        yield Line(path, number, fields)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _skip_line(file: Any) -> None:
    while (rest := file.readline(1 << 20)) and not rest.endswith(b"\n"):
        pass


def _fields(raw: bytes, path: Path, number: int, problems: Problems) -> dict[str, Any] | None:
    try:
        fields = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        problems.add(path, number, _what_is_wrong(raw, error))
        return None
    if not isinstance(fields, dict):
        problems.add(path, number, f"a line must be a JSON object, {{...}}, got {_json_kind(fields)}")
        return None
    return fields


def _what_is_wrong(raw: bytes, error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at byte {error.start}; convert the file"
    if isinstance(error, RecursionError):
        return "nested too deeply for a conversation"
    if found := LONE_SURROGATE.search(raw):
        return f"half a character, {found.group().decode()}: a surrogate without its partner is no text"
    return f"not JSON: {error}"


def _json_kind(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null")
