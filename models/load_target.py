"""From a target's checkpoint to a network that is ready to run, with every mismatch refused by name."""

import json
from pathlib import Path
from typing import Any

import torch

from core.errors import CheckpointError
from core.registry import TARGETS
from core.types import Numerics
from models.checkpoint import check_architecture, load_into, read_config, read_tensors
from models.network import for_inference
from models.target import Target

TARGET_ARCHITECTURES = tuple(TARGETS.names())


def load_target(folder: Path, dtype: torch.dtype, numerics: Numerics = Numerics.FAST) -> Target:
    """Load a checkpoint for inference, weights cast to `dtype`.

    Raises CheckpointError, and ConfigError where this machine cannot compute it in `numerics`.
    """
    config = read_config(folder)
    check_architecture(config, TARGET_ARCHITECTURES, folder)
    check_unquantised(config, folder)
    family: type[Target] = TARGETS.load(config["architectures"][0])
    network = family.from_json(config, numerics)
    load_into(network, network.own_tensors(read_tensors(folder)), source=str(folder))
    return for_inference(network, dtype)


def check_unquantised(config: dict[str, Any], folder: Path) -> None:
    """Raise CheckpointError naming the method if the weights are stored quantised."""
    told = config.get("quantization_config") or config.get("text_config", {}).get("quantization_config")
    if told:
        method = told.get("quant_method", "unnamed") if isinstance(told, dict) else told
        raise CheckpointError(
            f"{folder}: quantised checkpoints (quantization_config, method {method!r}) are not supported; "
            "use one in bfloat16 or float32"
        )


def eos_token_ids(folder: Path) -> tuple[int, ...]:
    """Return the ids that end an answer, from generation_config.json, else config.json; () if neither says."""
    config: dict[str, Any] = read_config(folder)
    generation = folder / "generation_config.json"
    if generation.is_file():
        config |= json.loads(generation.read_text(encoding="utf-8"))
    eos = config.get("eos_token_id", config.get("text_config", {}).get("eos_token_id"))
    if eos is None:
        return ()
    return tuple(eos) if isinstance(eos, list) else (eos,)
