"""The processes of a server that was started from here: which is which, what they hold, and on which cores they run.

Linux only: it reads /proc.
"""

import os
from pathlib import Path

from msgspec import Struct

PROC = Path("/proc")


class Footprint(Struct, frozen=True):
    """What a process holds: resident MiB, open files and connections."""

    mib: float
    files: int


def descendants(pid: int) -> dict[str, int]:
    """Return the gateway, the worker, its engine and the Redis among the descendants of a process, by role."""
    parents = {}
    for folder in PROC.iterdir():
        if folder.name.isdecimal():
            try:
                stat = (folder / "stat").read_text()
            except OSError:
                continue
            parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
    found: dict[str, int] = {}
    for child in parents:
        ancestor = child
        while ancestor in parents and ancestor != pid:
            ancestor = parents[ancestor]
        if ancestor == pid and child != pid and (role := _role(child)):
            found[role] = child
    return found


def footprints(pids: dict[str, int]) -> dict[str, Footprint]:
    """Return what processes hold, by the same names."""
    page = os.sysconf("SC_PAGE_SIZE")
    return {
        role: Footprint(
            round(int((PROC / str(pid) / "statm").read_text().split()[1]) * page / 2**20, 1),
            len(list((PROC / str(pid) / "fd").iterdir())),
        )
        for role, pid in pids.items()
    }


def processor_s(pid: int) -> float:
    """Return the processor time that a process has had, all threads, in seconds."""
    return _spent_s(PROC / str(pid))


def thread_processor_s(pid: int) -> dict[int, float]:
    """Return the processor time of a process's threads by their ids; its main one has the id of the process."""
    return {int(thread.name): _spent_s(thread) for thread in (PROC / str(pid) / "task").iterdir()}


def pin(pid: int, cores: set[int]) -> None:
    """Keep a process, all its threads, on these cores."""
    for thread in (PROC / str(pid) / "task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)


def _role(pid: int) -> str:
    try:
        words = (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    for role in (b"gateway", b"worker"):
        if role in words and b"--role" in words:
            return role.decode()
    if b"service.engine_process.main" in words:
        return "engine"
    return "redis" if b"redis-server" in words[0] else ""


def _spent_s(folder: Path) -> float:
    fields = (folder / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
