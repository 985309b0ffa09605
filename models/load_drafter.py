"""From a drafter's checkpoint to a network that is ready to run beside its target."""

from pathlib import Path

import torch

from core.errors import CheckpointError
from models.checkpoint import check_architecture, load_into, read_config, read_tensors
from models.dflash_net import DFlashConfig, DFlashNet
from models.network import for_inference
from models.target import Target

DRAFTER_ARCHITECTURES = ("Qwen3DSparkModel",)


def load_dspark(folder: Path, target: Target) -> DFlashNet:
    """Load a DSpark checkpoint for inference beside `target`, in the target's dtype and numerics.

    Copies of the target's embedding and head in the file must equal the target's. Raises CheckpointError.
    """
    config = read_config(folder)
    check_architecture(config, DRAFTER_ARCHITECTURES, folder)
    network = DFlashNet(DFlashConfig.from_json(config), target.numerics)
    if not network.config.markov_rank:
        raise CheckpointError(f"{folder}: markov_rank is 0; a DSpark drafter needs its Markov head")
    tensors = read_tensors(folder)
    own = {"embed_tokens.weight": target.embedding, "lm_head.weight": target.head}
    for name, weight in own.items():
        if name in tensors and not torch.equal(tensors[name].to(weight.dtype), weight):
            raise CheckpointError(
                f"{folder}: {name} differs from the target's; was this drafter trained for another target?"
            )
    load_into(network, tensors, source=str(folder), skip=own)
    return for_inference(network, target.dtype)
