"""Rotary position embedding stretched past the length a model was first trained on, as checkpoints name it.

Everything is said in periods, the inverse of transformers' `inv_freq`: the pair of channels with period w turns by one
radian every w positions.
"""

from typing import Any

import msgspec
import torch
from torch import Tensor

from core.errors import CheckpointError


class LinearScaling(msgspec.Struct, frozen=True, tag_field="rope_type", tag="linear"):
    """All positions are `factor` times nearer to each other."""

    factor: float

    def stretch(self, periods: Tensor) -> Tensor:
        """Return the periods [D / 2] that the network was trained with."""
        return periods * self.factor


class Llama3Scaling(msgspec.Struct, frozen=True, tag_field="rope_type", tag="llama3"):
    """Only slow pairs are stretched (Llama 3.1): by `factor` those that turn less than low_freq_factor times within
    original_max_position_embeddings, not at all those that turn more than high_freq_factor times.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def stretch(self, periods: Tensor) -> Tensor:
        """Return the periods [D / 2] that the network was trained with."""
        turns = self.original_max_position_embeddings / (2 * torch.pi * periods)
        kept = ((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)).clamp(0, 1)
        return periods / ((1 - kept) / self.factor + kept)


RopeScaling = LinearScaling | Llama3Scaling


def read_rope(config: dict[str, Any]) -> tuple[float | None, RopeScaling | None]:
    """Return the base in a config.json's rope keys, None if it is not there, and its scaling, None if it has none.

    The keys are those of transformers 5 (rope_parameters) or of older files (rope_scaling, with the base at the top as
    rope_theta). Raises CheckpointError for a type of rotation that is not computed here.
    """
    told = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = told.get("rope_theta")
    kind = told.get("rope_type", told.get("type", "default"))
    if told.get("partial_rotary_factor", config.get("partial_rotary_factor") or 1.0) != 1.0:
        raise CheckpointError(f"rope with partial_rotary_factor is not supported here, got {told!r}")
    if kind == "default":
        return theta, None
    try:
        return theta, msgspec.convert({**told, "rope_type": kind}, RopeScaling)
    except msgspec.ValidationError as error:
        raise CheckpointError(f"rope type {told!r} is not supported: {error}") from error
