"""Read a checkpoint's config.json and its like. No torch, so that a command line can ask what a folder holds."""

import json
from pathlib import Path
from typing import Any

from core.errors import CheckpointError


def read_config(folder: Path) -> dict[str, Any]:
    """Return config.json of a checkpoint folder; raises CheckpointError if it is missing or no JSON object."""
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {folder}: config.json is missing")
    return read_object(path)


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object that a file holds; raises CheckpointError if it holds none."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got {type(fields).__name__}")
    return fields
