"""Whose texts lie in a folder: what one target wrote teaches nothing about another."""

from pathlib import Path

import msgspec

from core.errors import DataError
from core.whole_file import write_whole

WRITTEN_BY = "written_by.json"


class WrittenBy(msgspec.Struct, frozen=True):
    """The target that wrote the texts, by the hash of its weights (training/identity.py)."""

    target_sha256: str


def claim_texts(folder: Path, target_sha256: str) -> None:
    """Note whose texts a folder is about to get; raises DataError for one with another target's, or with nobody's."""
    path, cure = folder / WRITTEN_BY, f"remove {folder}, or choose another output"
    if path.exists():
        try:
            found = msgspec.json.decode(path.read_bytes(), type=WrittenBy).target_sha256
        except msgspec.DecodeError as error:
            raise DataError(f"{path} cannot be read: {error}; {cure}") from error
        if found != target_sha256:
            raise DataError(
                f"{folder} holds texts that another target wrote (weights {found[:12]}, now {target_sha256[:12]}); "
                f"{cure}"
            )
        return
    if any(folder.glob("*.safetensors")):
        raise DataError(f"{folder} does not say which target wrote its texts ({WRITTEN_BY} is missing); {cure}")
    write_whole(path, msgspec.json.encode(WrittenBy(target_sha256)) + b"\n")
