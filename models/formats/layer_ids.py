"""Which layers of the target a drafter reads, on one base: id l is the output of decoder layer l, -1 the embedding's.

Formats count otherwise, and most leave the ids out where they are their trainer's default; a wrong base is silent, it
only lowers acceptance. No torch.
"""

from core.errors import CheckpointError
from models.formats.keys import whole_number


def read_layer_ids(value: object, key: str, *, first: int) -> list[int]:
    """Return the ids under `key` on our base; `first` is what the format calls the embedding's output.

    Raises CheckpointError unless they are whole numbers that ascend from there.
    """
    if not isinstance(value, list | tuple) or not value:
        raise CheckpointError(f"config.json: {key} must be a list of layers, got {value!r}")
    ids = [whole_number(each, key) - first - 1 for each in value]
    if ids != sorted(set(ids)) or ids[0] < -1:
        raise CheckpointError(f"config.json: {key} must ascend from {first} (the embedding), got {list(value)}")
    return ids


def spread_over_target(count: int, num_target_layers: int) -> list[int]:
    """Return z-lab's and SpecForge's default for DFlash: `count` layers evenly between the second and the last but two.

    Source: build_target_layer_ids of z-lab/dflash and SpecForge; `count` is the number of draft layers.
    """
    if count == 1:
        return [num_target_layers // 2]
    return [round(1 + index * (num_target_layers - 4) / (count - 1)) for index in range(count)]


def low_middle_high(num_target_layers: int) -> list[int]:
    """Return EAGLE-3's default: the states that enter layers 2, L/2 and L-3, outputs of the layers before them."""
    return [1, num_target_layers // 2 - 1, num_target_layers - 4]
