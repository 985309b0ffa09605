"""From a checkpoint folder to a network that is ready to run, with every mismatch refused by name."""

import json
from pathlib import Path
from typing import Any, TypeVar

import torch

from core.errors import CheckpointError
from core.types import Numerics
from kernels.linear import pack_linears
from kernels.tiled_linear import tile_linears
from models.checkpoint import load_into, read_config, read_tensors, strip_prefix
from models.dflash_net import DFlashConfig, DFlashNet
from models.layers import lean_norms
from models.qwen3 import Qwen3, Qwen3Config

TARGET_ARCHITECTURES = ("Qwen3ForCausalLM",)
DRAFTER_ARCHITECTURES = ("Qwen3DSparkModel",)
# A drafter's file may carry copies of the target's embedding and head; the target's own are used.
TARGET_OWNED = ("embed_tokens.weight", "lm_head.weight")

Network = TypeVar("Network", Qwen3, DFlashNet)


def load_target(folder: Path, dtype: torch.dtype, numerics: Numerics = Numerics.FAST) -> Qwen3:
    """Load a Qwen3 checkpoint for inference, weights cast to `dtype`.

    Raises CheckpointError, and ConfigError where this machine cannot compute it in `numerics`.
    """
    config = read_config(folder)
    _check_architecture(config, TARGET_ARCHITECTURES, folder)
    network = Qwen3(Qwen3Config.from_json(config), numerics)
    tied = network.config.tie_word_embeddings
    tensors = strip_prefix(read_tensors(folder), "model.")
    load_into(network, tensors, source=str(folder), skip=("lm_head.weight",) if tied else ())
    return for_inference(network, dtype)


def load_dspark(folder: Path, target: Qwen3) -> DFlashNet:
    """Load a DSpark checkpoint for inference beside `target`, in the target's dtype and numerics.

    Copies of the target's embedding and head in the file must equal the target's. Raises CheckpointError.
    """
    config = read_config(folder)
    _check_architecture(config, DRAFTER_ARCHITECTURES, folder)
    network = DFlashNet(DFlashConfig.from_json(config), target.numerics)
    if not network.config.markov_rank:
        raise CheckpointError(f"{folder}: markov_rank is 0; a DSpark drafter needs its Markov head")
    tensors = read_tensors(folder)
    own = {"embed_tokens.weight": target.embed_tokens.weight, "lm_head.weight": target.lm_head.weight}
    for name in TARGET_OWNED:
        if name in tensors and not torch.equal(tensors[name].to(own[name].dtype), own[name]):
            raise CheckpointError(
                f"{folder}: {name} differs from the target's; was this drafter trained for another target?"
            )
    load_into(network, tensors, source=str(folder), skip=TARGET_OWNED)
    return for_inference(network, target.norm.weight.dtype)


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


def for_inference(network: Network, dtype: torch.dtype) -> Network:
    """Cast a network to `dtype` and lay its weights out for inference in its numerics, in place; returns it.

    Raises ConfigError where this machine cannot compute it batch-invariantly.
    """
    network = network.to(dtype).eval().requires_grad_(False)
    if isinstance(network, DFlashNet):
        network.fuse_context()
        if network.config.enable_confidence_head:
            # The reference keeps this one in float32: a survival is a product of seven of its sigmoids.
            network.confidence_head.float()
    if network.numerics is Numerics.BATCH_INVARIANT:
        tile_linears(network)
    else:
        pack_linears(network)
        lean_norms(network)
    return network


def _check_architecture(config: dict[str, Any], supported: tuple[str, ...], folder: Path) -> None:
    named = config.get("architectures") or []
    if not isinstance(named, list) or not any(name in supported for name in named):
        raise CheckpointError(f"{folder}: architectures must name one of {', '.join(supported)}, got {named!r}")
