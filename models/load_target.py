"""From a target's checkpoint to a network that is ready to run, with every mismatch refused by name."""

import json
from pathlib import Path
from typing import Any

import torch

from core.types import Numerics
from models.checkpoint import check_architecture, load_into, read_tensors, strip_prefix
from models.config_json import read_config
from models.network import for_inference
from models.qwen3 import Qwen3, Qwen3Config

TARGET_ARCHITECTURES = ("Qwen3ForCausalLM",)


def load_target(folder: Path, dtype: torch.dtype, numerics: Numerics = Numerics.FAST) -> Qwen3:
    """Load a Qwen3 checkpoint for inference, weights cast to `dtype`.

    Raises CheckpointError, and ConfigError where this machine cannot compute it in `numerics`.
    """
    config = read_config(folder)
    check_architecture(config, TARGET_ARCHITECTURES, folder)
    network = Qwen3(Qwen3Config.from_json(config), numerics)
    tied = network.config.tie_word_embeddings
    tensors = strip_prefix(read_tensors(folder), "model.")
    load_into(network, tensors, source=str(folder), skip=("lm_head.weight",) if tied else ())
    return for_inference(network, dtype)


def eos_token_ids(folder: Path) -> tuple[int, ...]:
    """Return the ids that end an answer, from generation_config.json, else config.json; () if neither says."""
    config: dict[str, Any] = read_config(folder)
    generation = folder / "generation_config.json"
    if generation.is_file():
        config |= json.loads(generation.read_text(encoding="utf-8"))
    eos = config.get("eos_token_id")
    if eos is None:
        return ()
    return tuple(eos) if isinstance(eos, list) else (eos,)
