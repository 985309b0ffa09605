"""A target as the engine and its drafters see it, whatever family it is of."""

from typing import Any, ClassVar, Protocol, Self

from torch import Tensor

from core.types import Numerics
from models.layers import Attend
from models.network import Network
from models.shape import TargetShape


class TargetConfig(Protocol):
    """What a family reads of a config.json."""

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> Self:
        """Read it; raises CheckpointError for what the network does not compute."""
        ...

    @property
    def shape(self) -> TargetShape:
        """What the engine and drafters know of it."""
        ...

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Return (what, value) for people to read, beyond the shape."""
        ...


class Target(Network):
    """Token ids to final hidden states, and these to logits. Families in core.registry.TARGETS have a config_type."""

    config_type: ClassVar[type[TargetConfig]]

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

    def computed_logits(self, hidden: Tensor) -> Tensor:
        """Return the numbers of `logits` in the type they are computed in: for whoever widens them as it reads."""
        return self.logits(hidden)

    @property
    def embedding(self) -> Tensor:
        """The weight [V, H] of the embedding, before any scale; drafters' files may hold copies of it."""
        raise NotImplementedError

    @property
    def head(self) -> Tensor:
        """The weight [V, H] of the output head."""
        raise NotImplementedError
