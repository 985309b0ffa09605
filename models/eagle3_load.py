"""From a canonical Eagle3 checkpoint to a network that is ready to run beside its target."""

from typing import Any

from torch import Tensor

from core.errors import CheckpointError
from models.draft_fit import fitted, load_beside
from models.eagle3_config import Eagle3Config
from models.eagle3_net import Eagle3Net
from models.target import Target


def make_eagle3(config: dict[str, Any], tensors: dict[str, Tensor], target: Target, source: str) -> Eagle3Net:
    """Build an Eagle3 network for inference beside `target`, in the target's dtype and numerics.

    config and tensors are canonical: DeepSpec's keys and names (`load_beside`). Raises CheckpointError, naming
    `source`, also for what does not fit the target.
    """
    try:
        made = fitted(Eagle3Config.from_json(config), target)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error
    return load_beside(Eagle3Net(made, target.numerics), tensors, target, source)
