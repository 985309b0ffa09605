"""`specd inspect PATH`: what a checkpoint holds, read as the server would read it, or why it would not."""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from cli.inspect_drafter import describe_drafter
from cli.inspect_tensors import tensor_rows
from core.errors import CheckpointError
from models.checkpoint import read_headers
from models.config_json import read_config
from models.folders import target_folder
from models.formats.keys import architectures
from models.formats.translate import is_drafter
from models.load_target import TARGET_ARCHITECTURES, check_unquantised, read_target_config, target_architecture
from models.shape import TargetShape

# How transformers names what may be a target.
GENERATING = ("ForCausalLM", "ForConditionalGeneration")

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
    """Return (what, value) lines for a target; raises CheckpointError for what specd would not compute."""
    architecture = target_architecture(config, folder)
    check_unquantised(config, folder)
    if architecture not in TARGET_ARCHITECTURES:
        if not architecture.endswith(GENERATING):
            raise CheckpointError(
                f"{folder}: architecture {architecture!r} is not one that generates text, neither a target "
                f"({', '.join(TARGET_ARCHITECTURES)}, or one that transformers computes) nor a drafter"
            )
        how = "by transformers, if the trial at loading finds that it can (not specd's own network)"
        return [("role", "target"), ("computed", how), *tensor_rows(read_headers(folder))]
    described = read_target_config(folder)
    tied = " (head tied to the embedding)" if config.get("tie_word_embeddings") else ""
    return [
        ("role", "target"),
        *attention_rows(described.shape),
        ("vocabulary", f"{described.shape.vocab_size}{tied}"),
        ("positions", str(described.shape.max_positions)),
        *described.facts,
        *tensor_rows(read_headers(folder)),
    ]


def attention_rows(shape: TargetShape) -> Rows:
    """Return a line per kind of layer, in the order in which they first come."""
    kinds = Counter(replace(layer, kv_layer=None) for layer in shape.layers)
    rows = [("layers", str(len(shape.layers))), ("hidden size", str(shape.hidden_size))]
    for kind, count in kinds.items():
        window = f", window {kind.window}" if kind.window else ""
        of = "" if len(kinds) == 1 else f" ({count} layers)"
        told = f"{kind.num_heads} heads, {kind.num_kv_heads} kv heads of {kind.head_dim}{window}{of}"
        rows.append(("attention", told))
    shared = sum(layer.kv_layer is not None for layer in shape.layers)
    return [*rows, ("shared keys", f"{shared} layers read an earlier layer's")] if shared else rows
