"""The files that recorded answers lie in: lines are written whole or not at all, files rotate, the oldest give way.

Readable by their owner only. Several workers may share a folder: each writes files of its own name, and whoever begins
a file removes the oldest of all.
"""

import os
import time
from contextlib import suppress
from pathlib import Path

PREFIX = "recorded-"


class RecordingFiles:
    """One worker's files in a folder; mutable, for one thread. All calls raise OSError."""

    def __init__(self, folder: Path, worker: str, max_file_bytes: int, max_total_bytes: int) -> None:
        self.folder = folder
        self._worker, self._max_file_bytes, self._max_total_bytes = worker, max_file_bytes, max_total_bytes
        self._path = folder
        self._descriptor: int | None = None
        self._num_bytes = 0

    def open(self) -> None:
        """Begin a file if none is open."""
        if self._descriptor is not None:
            return
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._make_room()
        self._path = self.folder / f"{PREFIX}{time.time_ns() // 1000:016d}-{self._worker}.jsonl"
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._num_bytes = 0

    def write(self, line: bytes) -> None:
        """Append a line, to the next file where this one is full; of a line that the disk cannot take none stays."""
        if self._descriptor is not None and (self._num_bytes >= self._max_file_bytes or self._is_gone()):
            self.close()
        self.open()
        assert self._descriptor is not None
        try:
            num_written = os.write(self._descriptor, line)
        except OSError:
            self._take_back()
            raise
        if num_written != len(line):
            self._take_back()
            raise OSError(28, "No space left on device")
        self._num_bytes += len(line)

    def close(self) -> None:
        """End the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            if not self._num_bytes:
                self._path.unlink(missing_ok=True)

    def _is_gone(self) -> bool:
        """Tell whether somebody has removed the file, which would take with it what is written from now on."""
        assert self._descriptor is not None
        return os.fstat(self._descriptor).st_nlink == 0

    def _take_back(self) -> None:
        assert self._descriptor is not None
        with suppress(OSError):
            os.ftruncate(self._descriptor, self._num_bytes)

    def _make_room(self) -> None:
        """Remove the oldest files until a whole new one fits under the total."""
        sizes = {path: path.stat().st_size for path in sorted(self.folder.glob(f"{PREFIX}*.jsonl"))}
        total = sum(sizes.values())
        for path, size in sizes.items():
            if total + self._max_file_bytes <= self._max_total_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size
