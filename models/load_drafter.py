"""From a drafter's checkpoint, of whatever format, to a network that is ready to run beside its target."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from core.config import CheckpointKind
from core.errors import CheckpointError
from models.dflash_config import DFlashConfig
from models.dflash_load import make_dflash
from models.dflash_net import DFlashNet
from models.eagle3_config import Eagle3Config
from models.eagle3_load import make_eagle3
from models.formats.checkpoint import Checkpoint, read_checkpoint
from models.network import Network
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
            f"{folder} holds a drafter of kind {checkpoint.kind} (format: {checkpoint.format}), and the configuration "
            f'asks for {kind}; write kind = "{checkpoint.kind}"'
        )
    return checkpoint


def make_network(checkpoint: Checkpoint, target: Target, source: str) -> Network:
    """Make the network of a checkpoint; raises CheckpointError for what it cannot compute or does not fit."""
    return NETWORKS[checkpoint.kind](checkpoint.config, checkpoint.tensors, target, source)


def check_network(kind: CheckpointKind, config: dict[str, Any], source: str) -> None:
    """Raise CheckpointError if no network computes what a canonical config says; weights need not be there.

    Layer ids that are to be found from a target's depth may be missing.
    """
    try:
        CONFIGS[kind].from_json({"target_layer_ids": [0], **config})
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error


def load_dspark(folder: Path, target: Target) -> DFlashNet:
    """Load a DSpark checkpoint (`load_drafter`)."""
    network = load_drafter(folder, target, "dspark")
    assert isinstance(network, DFlashNet)
    return network


# One line per kind, in each of both.
CONFIGS: dict[str, type[DFlashConfig | Eagle3Config]] = {
    "dspark": DFlashConfig,
    "dflash": DFlashConfig,
    "eagle3": Eagle3Config,
}
NETWORKS: dict[str, MakeNetwork] = {"dspark": make_dflash, "dflash": make_dflash, "eagle3": make_eagle3}
