"""From a drafter's checkpoint to a network that is ready to run beside its target."""

from pathlib import Path

from core.errors import CheckpointError
from models.checkpoint import check_architecture, read_config, read_tensors
from models.dflash_load import make_dflash
from models.dflash_net import DFlashNet
from models.target import Target

DRAFTER_ARCHITECTURES = ("Qwen3DSparkModel",)


def load_dspark(folder: Path, target: Target) -> DFlashNet:
    """Load a DSpark checkpoint for inference beside `target` (`make_dflash`); raises CheckpointError."""
    config = read_config(folder)
    check_architecture(config, DRAFTER_ARCHITECTURES, folder)
    network = make_dflash(config, read_tensors(folder), target, str(folder))
    if network.markov_head is None:
        raise CheckpointError(f"{folder}: markov_rank is 0; a DSpark drafter needs its Markov head")
    return network
