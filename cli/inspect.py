"""`specd inspect PATH`: say what a checkpoint folder holds, read the same way as the server would read it."""

import argparse
import math
from collections import Counter
from pathlib import Path
from typing import Any

from core.errors import CheckpointError
from models.calibration_file import CALIBRATION_FILE, read_calibration
from models.checkpoint import read_config, read_tensors
from models.decoder import DecoderConfig
from models.dflash_config import DFlashConfig
from models.load_drafter import DRAFTER_ARCHITECTURES
from models.load_target import TARGET_ARCHITECTURES
from models.qwen3 import Qwen3Config


def run(arguments: argparse.Namespace) -> int:
    """Print the description of one checkpoint; raises CheckpointError if it is none that specd reads."""
    rows = describe(arguments.path)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
    return 0


def describe(folder: Path) -> list[tuple[str, str]]:
    """Return (what, value) lines for the checkpoint in `folder`."""
    config = read_config(folder)
    architectures = config.get("architectures") or ["unnamed"]
    rows = [("architecture", ", ".join(map(str, architectures)))]
    if set(architectures) & set(DRAFTER_ARCHITECTURES):
        rows += _drafter_rows(DFlashConfig.from_json(config), folder)
    elif set(architectures) & set(TARGET_ARCHITECTURES):
        rows += [("role", "target"), *_shape_rows(Qwen3Config.from_json(config))]
    else:
        known = ", ".join((*TARGET_ARCHITECTURES, *DRAFTER_ARCHITECTURES))
        raise CheckpointError(f"{folder}: architecture {architectures} is not one specd reads; known: {known}")
    return rows + _tensor_rows(read_tensors(folder))


def _shape_rows(config: DecoderConfig) -> list[tuple[str, str]]:
    return [
        ("layers", str(config.num_hidden_layers)),
        ("hidden size", f"{config.hidden_size} (mlp {config.intermediate_size})"),
        (
            "attention",
            f"{config.num_attention_heads} heads, {config.num_key_value_heads} kv heads of {config.head_dim}",
        ),
        ("vocabulary", f"{config.vocab_size}{' (head tied to the embedding)' if config.tie_word_embeddings else ''}"),
        ("positions", str(config.max_position_embeddings)),
    ]


def _drafter_rows(config: DFlashConfig, folder: Path) -> list[tuple[str, str]]:
    is_calibrated = read_calibration(folder, config.num_drafts) is not None
    return [
        ("role", "drafter (DSpark)" if config.markov_rank else "drafter (DFlash)"),
        ("drafts per step", f"{config.num_drafts} (blocks of {config.block_size})"),
        (
            "reads target layers",
            f"{', '.join(map(str, config.target_layer_ids))} of {config.num_target_layers or 'any number'}",
        ),
        ("mask token", str(config.mask_token_id)),
        (
            "sequential head",
            f"Markov, {config.markov_head_type}, rank {config.markov_rank}" if config.markov_rank else "none",
        ),
        ("confidence head", "yes" if config.enable_confidence_head else "none"),
        ("calibration", CALIBRATION_FILE if is_calibrated else "none; `specd calibrate` makes one"),
        *_shape_rows(config.backbone),
    ]


def _tensor_rows(tensors: dict[str, Any]) -> list[tuple[str, str]]:
    parameters = sum(math.prod(tensor.shape) for tensor in tensors.values())
    size = sum(tensor.nbytes for tensor in tensors.values())
    dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values())
    return [
        ("parameters", f"{parameters:,} in {len(tensors)} tensors"),
        ("stored as", ", ".join(f"{dtype} ({count})" for dtype, count in dtypes.most_common())),
        ("size", f"{size / 1e6:.1f} MB"),
    ]
