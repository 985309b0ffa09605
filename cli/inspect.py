"""`specd inspect PATH`: what a checkpoint holds, read as the server would read it, or why it would not."""

import argparse
from pathlib import Path
from typing import Any

from cli.inspect_drafter import describe_drafter
from cli.inspect_tensors import shape_rows, tensor_rows
from core.errors import CheckpointError
from models.checkpoint import read_headers
from models.config_json import read_config
from models.folders import target_folder
from models.formats.keys import architectures
from models.formats.translate import is_drafter
from models.load_target import TARGET_ARCHITECTURES
from models.qwen3 import Qwen3Config

Rows = list[tuple[str, str]]


def run(arguments: argparse.Namespace) -> int:
    """Print the description of one checkpoint; raises CheckpointError if it is none that specd reads."""
    folder = target_folder(arguments.path, arguments.revision)
    beside = target_folder(arguments.target) if arguments.target else None
    rows = describe(folder, beside)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
    return 0


def describe(folder: Path, beside: Path | None = None) -> Rows:
    """Return (what, value) lines for the checkpoint in `folder`; `beside` is the target that a drafter is to fit."""
    config = read_config(folder)
    rows = [("architecture", ", ".join(architectures(config)) or "unnamed")]
    if is_drafter(config):
        return rows + describe_drafter(folder, config, beside)
    if beside is not None:
        raise CheckpointError(f"{folder} is no drafter; --target is for those")
    return rows + describe_target(folder, config)


def describe_target(folder: Path, config: dict[str, Any]) -> Rows:
    """Return (what, value) lines for a target."""
    named = architectures(config)
    if not set(named) & set(TARGET_ARCHITECTURES):
        raise CheckpointError(
            f"{folder}: architecture {list(named)} is not one specd reads, neither of a target "
            f"({', '.join(TARGET_ARCHITECTURES)}) nor of a drafter"
        )
    # Raises for what the target does not compute.
    Qwen3Config.from_json(config)
    tied = " (head tied to the embedding)" if config.get("tie_word_embeddings") else ""
    return [("role", "target"), *shape_rows(config, tied), *tensor_rows(read_headers(folder))]
