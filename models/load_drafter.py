"""From a drafter's checkpoint, of whatever format, to a network that is ready to run beside its target."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from core.config import CheckpointKind
from core.errors import CheckpointError
from core.types import Numerics
from models.dflash_config import DFlashConfig
from models.dflash_net import DFlashNet
from models.draft_fit import DraftNetwork, fitted, load_beside
from models.eagle3_config import Eagle3Config
from models.eagle3_net import Eagle3Net
from models.formats.checkpoint import Checkpoint, read_checkpoint
from models.target import Target


def load_drafter(folder: Path, target: Target, kind: CheckpointKind | None = None) -> DraftNetwork:
    """Load a drafter's checkpoint for inference beside `target`, in the target's dtype and numerics.

    kind is what the settings ask for, None takes what it is. Raises CheckpointError naming the key or the tensor.
    """
    checkpoint = read_drafter(folder, target, kind)
    return make_network(checkpoint.kind, checkpoint.config, checkpoint.tensors, target, str(folder))


def read_drafter(folder: Path, target: Target, kind: CheckpointKind | None = None) -> Checkpoint:
    """Read a drafter's checkpoint for `target`; raises CheckpointError also where it is of another kind than asked."""
    checkpoint = read_checkpoint(folder, len(target.shape.layers))
    if kind not in (None, checkpoint.kind):
        raise CheckpointError(
            f"{folder} holds a drafter of kind {checkpoint.kind} (format: {checkpoint.format}), and the configuration "
            f'asks for {kind}; write kind = "{checkpoint.kind}"'
        )
    return checkpoint


def make_network(
    kind: CheckpointKind, config: dict[str, Any], tensors: dict[str, Tensor], target: Target, source: str
) -> DraftNetwork:
    """Build a drafter's network for inference beside `target`, in the target's dtype and numerics.

    config and tensors are canonical: DeepSpec's keys and names (`load_beside`). Raises CheckpointError, naming
    `source`, also for what the network does not compute and for what does not fit the target.
    """
    read, build = KINDS[kind]
    try:
        made = fitted(read(config), target)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error
    return load_beside(build(made, target.numerics), tensors, target, source)


def check_network(kind: CheckpointKind, config: dict[str, Any], source: str) -> None:
    """Raise CheckpointError if no network computes what a canonical config says; weights need not be there.

    Layer ids that are to be found from a target's depth may be missing.
    """
    try:
        KINDS[kind][0]({"target_layer_ids": [0], **config})
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error


def load_dspark(folder: Path, target: Target) -> DFlashNet:
    """Load a DSpark checkpoint (`load_drafter`)."""
    network = load_drafter(folder, target, "dspark")
    assert isinstance(network, DFlashNet)
    return network


# Per kind, what reads its canonical config, and the network that it describes.
KINDS: dict[CheckpointKind, tuple[Callable[[dict[str, Any]], Any], Callable[[Any, Numerics], DraftNetwork]]] = {
    "dspark": (DFlashConfig.from_json, DFlashNet),
    "dflash": (DFlashConfig.from_json, DFlashNet),
    "eagle3": (Eagle3Config.from_json, Eagle3Net),
}
