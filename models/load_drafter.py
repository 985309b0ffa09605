"""From a drafter's checkpoint, of whatever format, to a network that is ready to run beside its target."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from core.config import CheckpointKind
from core.errors import CheckpointError
from models.dflash_load import make_dflash
from models.dflash_net import DFlashNet
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
            f"{folder} holds a drafter of kind {checkpoint.kind} ({checkpoint.format}'s format), and the configuration "
            f'asks for {kind}; write kind = "{checkpoint.kind}"'
        )
    return checkpoint


def make_network(checkpoint: Checkpoint, target: Target, source: str) -> Network:
    """Make the network of a checkpoint; raises CheckpointError for what it cannot compute or does not fit."""
    return NETWORKS[checkpoint.kind](checkpoint.config, checkpoint.tensors, target, source)


def load_dspark(folder: Path, target: Target) -> DFlashNet:
    """Load a DSpark checkpoint (`load_drafter`)."""
    network = load_drafter(folder, target, "dspark")
    assert isinstance(network, DFlashNet)
    return network


# One line per kind.
NETWORKS: dict[str, MakeNetwork] = {"dspark": make_dflash, "dflash": make_dflash, "eagle3": make_eagle3}
