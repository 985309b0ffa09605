"""Write a file in one move, so that no reader ever sees half of it."""

from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Put `data` at `path`, whose folder is made; raises OSError."""
    part = path.with_suffix(".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(data)
    part.replace(path)
