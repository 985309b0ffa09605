"""What configs of drafters that read their target's features have in common: whom they were made for, what is drafted.

A kind of drafter (models/dflash_config.py, models/eagle3_config.py) says which keys it has beyond these.
"""

from collections.abc import Iterable
from typing import Any, Protocol, Self, runtime_checkable

import msgspec
from torch import nn

from core.errors import CheckpointError
from models.layers import Rotary
from models.shape import TargetShape


@runtime_checkable
class Backbone(Protocol):
    """The draft layers, of whichever family they are; the configs of families are such."""

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> Self:
        """Read a canonical config; raises CheckpointError for layers that are not computed."""
        ...

    @property
    def vocab_size(self) -> int:
        """V, the target's."""
        ...

    @property
    def hidden_size(self) -> int:
        """H, the drafter's own."""
        ...

    @property
    def intermediate_size(self) -> int:
        """Width of an MLP."""
        ...

    @property
    def num_hidden_layers(self) -> int:
        """How many draft layers there are."""
        ...

    @property
    def rms_norm_eps(self) -> float:
        """Epsilon of all norms."""
        ...

    @property
    def max_position_embeddings(self) -> int:
        """Positions that the layers know of."""
        ...

    @property
    def shape(self) -> TargetShape:
        """The attention of each layer."""
        ...

    @property
    def embedding_scale(self) -> float:
        """What an embedding of the drafter's own is multiplied by; the target sees to its own."""
        ...

    @property
    def logit_cap(self) -> float | None:
        """What logits of a head of the drafter's own stay within; None is no bound."""
        ...

    def make_layers(self) -> Iterable[nn.Module]:
        """Build all layers in order."""
        ...

    def make_rotation(self, num_positions: int) -> Rotary:
        """Build the rotation that all layers share, for so many positions."""
        ...


class DraftConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A drafter as far as its target sees it.

    target_layer_ids    decoder layers whose output is read, ascending from 0; -1 is the embedding
    num_target_layers   None where the file does not say
    target_hidden_size  width of one captured state; None is the drafter's own
    draft_vocab_size    tokens it can draft; None is all
    """

    backbone: Backbone
    target_layer_ids: tuple[int, ...]
    num_target_layers: int | None = None
    target_hidden_size: int | None = None
    draft_vocab_size: int | None = None

    def check(self) -> None:
        """Raise CheckpointError for values that contradict each other."""
        ids, vocab_size = self.target_layer_ids, self.backbone.vocab_size
        if not ids or list(ids) != sorted(set(ids)) or ids[0] < -1:
            raise CheckpointError(f"target_layer_ids must ascend from -1 or above, got {list(ids)}")
        if self.num_target_layers is not None:
            self.check_layer_ids(self.num_target_layers)
        if not 2 <= self.num_draftable <= vocab_size:
            raise CheckpointError(f"draft_vocab_size must lie in 2..{vocab_size}, got {self.draft_vocab_size}")

    def check_layer_ids(self, num_layers: int) -> None:
        """Raise CheckpointError if a target of so many layers has no raw state of one that is read."""
        if self.target_layer_ids[-1] >= num_layers - 1:
            raise CheckpointError(
                f"target_layer_ids must lie within -1..{num_layers - 2} (the last layer has no raw state), "
                f"got {list(self.target_layer_ids)}"
            )

    def reaching(self, num_positions: int) -> Self:
        """Return the same with positions as far as these at least."""
        longest = max(self.backbone.max_position_embeddings, num_positions)
        backbone = msgspec.structs.replace(self.backbone, max_position_embeddings=longest)  # type: ignore[type-var]
        return msgspec.structs.replace(self, backbone=backbone)

    @property
    def feature_size(self) -> int:
        """Width of one captured state."""
        return self.backbone.hidden_size if self.target_hidden_size is None else self.target_hidden_size

    @property
    def num_draftable(self) -> int:
        """Tokens that it can draft, Vd."""
        return self.backbone.vocab_size if self.draft_vocab_size is None else self.draft_vocab_size
