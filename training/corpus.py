"""The standard library of the running Python as real text, split by whole top-level packages.

Tests, installed packages, generated tables and files that carry other people's data are left out. Which package is
held out depends on its name only, so no file of a held-out package is ever trained on.
"""

import hashlib
import sysconfig
from pathlib import Path

import msgspec

from training.tasks.task import stable_hash

SKIPPED_FOLDERS = frozenset(
    {
        "test",
        "tests",
        "idle_test",
        "site-packages",
        "dist-packages",
        "ensurepip",
        "lib2to3",
        "__pycache__",
        "encodings",
        "pydoc_data",
        "turtledemo",
        "lib-dynload",
    }
)
MAX_FILE_LEN = 200_000  # larger files are tables
HELD_OUT_SHARE = 24


class Corpus(msgspec.Struct, frozen=True):
    """Documents of the two parts, by path relative to the library, with the size and hash of all of them."""

    train: dict[str, str]
    held_out: dict[str, str]
    num_bytes: int
    sha256: str


def read_corpus(folder: Path | None = None) -> Corpus:
    """Read the library (of the running Python, unless another folder is given) in the order of its paths."""
    root = folder or Path(sysconfig.get_paths()["stdlib"])
    parts: dict[str, dict[str, str]] = {"train": {}, "held_out": {}}
    digest, num_bytes = hashlib.sha256(), 0
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if SKIPPED_FOLDERS.intersection(relative.parts) or path.stat().st_size > MAX_FILE_LEN:
            continue
        text = path.read_text("utf-8", errors="ignore")
        if not text.strip():
            continue
        data = text.encode()
        digest.update(f"{relative} {len(data)}\n".encode() + data)
        num_bytes += len(data)
        parts["held_out" if is_held_out(relative) else "train"][str(relative)] = text
    return Corpus(parts["train"], parts["held_out"], num_bytes, digest.hexdigest())


def package(relative: Path) -> str:
    """Return the top-level package of a file; `_pydecimal` and `decimal` are one package."""
    return relative.parts[0].removesuffix(".py").lstrip("_").removeprefix("py")


def is_held_out(relative: Path) -> bool:
    """Tell whether a file's whole package is held out."""
    return stable_hash(f"package {package(relative)}") % HELD_OUT_SHARE == 0
