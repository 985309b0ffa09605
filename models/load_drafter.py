"""From a drafter's checkpoint, of whatever format, to a network that is ready to run beside its target."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.config import CheckpointKind
from core.errors import CheckpointError
from models.checkpoint import load_into
from models.dflash_net import DFlashConfig, DFlashNet
from models.formats.checkpoint import Checkpoint, read_checkpoint
from models.network import Network, for_inference
from models.target import Target

# Makes a network from a canonical config and tensors; the last argument names the checkpoint in errors.
MakeNetwork = Callable[[dict[str, Any], dict[str, Tensor], Target, str], Network]


def load_drafter(folder: Path, target: Target, kind: CheckpointKind | None = None) -> Network:
    """Load a drafter's checkpoint for inference beside `target`, in the target's dtype and numerics.

    kind is what the settings ask for, None takes what it is. Raises CheckpointError naming the key or the tensor.
    """
    return make_network(read_drafter(folder, target, kind), target, str(folder))


def read_drafter(folder: Path, target: Target, kind: CheckpointKind | None = None) -> Checkpoint:
    """Read a drafter's checkpoint for `target`; raises CheckpointError also where it is of another kind than asked."""
    checkpoint = read_checkpoint(folder, len(target.shape.layers))
    if kind not in (None, checkpoint.kind):
        raise CheckpointError(
            f"{folder} holds a drafter of kind {checkpoint.kind} ({checkpoint.format}'s format), and the configuration "
            f'asks for {kind}; write kind = "{checkpoint.kind}"'
        )
    return checkpoint


def make_network(checkpoint: Checkpoint, target: Target, source: str) -> Network:
    """Make the network of a checkpoint; raises CheckpointError for what it cannot compute or does not fit."""
    if checkpoint.kind not in NETWORKS:
        raise CheckpointError(f"{source}: {checkpoint.kind} drafters are read, but there is no network for them yet")
    return NETWORKS[checkpoint.kind](checkpoint.config, checkpoint.tensors, target, source)


def load_dspark(folder: Path, target: Target) -> DFlashNet:
    """Load a DSpark checkpoint (`load_drafter`)."""
    network = load_drafter(folder, target, "dspark")
    assert isinstance(network, DFlashNet)
    return network


def _make_block(config: dict[str, Any], tensors: dict[str, Tensor], target: Target, source: str) -> DFlashNet:
    """Make a DFlash or DSpark network; the file's copies of the target's embedding and head must equal the target's."""
    _check_served(config, source)
    made = DFlashConfig.from_json({"num_target_layers": len(target.shape.layers), **config})
    network = DFlashNet(made, target.numerics)
    own = {"embed_tokens.weight": target.embedding, "lm_head.weight": target.head}
    for name, weight in own.items():
        if name in tensors and not torch.equal(tensors[name].to(weight.dtype), weight):
            raise CheckpointError(
                f"{source}: {name} differs from the target's; was this drafter trained for another target?"
            )
    load_into(network, tensors, source=source, skip=own)
    return for_inference(network, target.dtype)


def _check_served(config: dict[str, Any], source: str) -> None:
    """Raise CheckpointError for what formats say and the DFlash network does not compute."""
    served = {
        "model_type": "qwen3",
        "sample_from_anchor": True,
        "is_causal": False,
        "draft_vocab_size": config["vocab_size"],
        "target_hidden_size": config["hidden_size"],
    }
    for key, value in served.items():
        if config[key] != value:
            raise CheckpointError(f"{source}: {key} {config[key]!r} is not supported; {value!r} is")


# One line per kind.
NETWORKS: dict[str, MakeNetwork] = {"dspark": _make_block, "dflash": _make_block}
