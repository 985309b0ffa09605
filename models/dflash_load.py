"""From a canonical DFlash or DSpark checkpoint to a network that is ready to run beside its target."""

from typing import Any

from torch import Tensor

from core.errors import CheckpointError
from models.dflash_config import DFlashConfig
from models.dflash_net import DFlashNet
from models.draft_fit import fitted, load_beside
from models.target import Target


def make_dflash(config: dict[str, Any], tensors: dict[str, Tensor], target: Target, source: str) -> DFlashNet:
    """Build a DFlash or DSpark network for inference beside `target`, in the target's dtype and numerics.

    config and tensors are canonical: DeepSpec's keys and names (`load_beside`). Raises CheckpointError, naming
    `source`, also for what does not fit the target.
    """
    try:
        made = fitted(DFlashConfig.from_json(config), target)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error
    return load_beside(DFlashNet(made, target.numerics), tensors, target, source)
