"""A target as the engine and its drafters see it, whatever family it is of."""

from typing import Any, Self

from torch import Tensor

from core.types import Numerics
from models.layers import Attend
from models.network import Network
from models.shape import TargetShape


class Target(Network):
    """Token ids to final hidden states, and these to logits."""

    def __init__(self, shape: TargetShape, numerics: Numerics) -> None:
        super().__init__(numerics)
        self.shape = shape

    @classmethod
    def from_json(cls, config: dict[str, Any], numerics: Numerics) -> Self:
        """Build the network that a config.json describes, weights not loaded; raises CheckpointError."""
        raise NotImplementedError

    def own_tensors(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a checkpoint of this family under the names of this network's parameters."""
        raise NotImplementedError

    def forward(
        self, tokens: Tensor, positions: Tensor, attend: Attend, capture: tuple[int, ...] = ()
    ) -> tuple[Tensor, Tensor | None]:
        """Run tokens [...] at absolute positions [...] through the network.

        Returns the final-normed hidden states [..., H] and, if `capture` names layers (ascending; -1 is the
        embedding), their residual streams after the layer, concatenated [..., len(capture) * H].
        """
        raise NotImplementedError

    def embed(self, tokens: Tensor) -> Tensor:
        """Return the states [..., H] that tokens [...] enter the first layer with."""
        raise NotImplementedError

    def logits(self, hidden: Tensor) -> Tensor:
        """Map final hidden states [..., H] to logits [..., V] in float32."""
        raise NotImplementedError

    @property
    def embedding(self) -> Tensor:
        """The weight [V, H] of the embedding, before any scale; drafters' files may hold copies of it."""
        raise NotImplementedError

    @property
    def head(self) -> Tensor:
        """The weight [V, H] of the output head."""
        raise NotImplementedError
