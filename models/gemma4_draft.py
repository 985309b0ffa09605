"""Draft layers of Gemma 4's kind (DeepSpec's Gemma4DSparkModel): its full-attention layers, dense, over a block.

What a file keeps of its target's config beside, windows, shared keys and values, per-layer inputs, draft layers do not
have. An embedding of the drafter's own is scaled, and logits of a head of its own are capped, as the target's are.
"""

from collections.abc import Iterable
from typing import Any, Self

from torch import Tensor

from core.errors import CheckpointError
from models.gemma4_config import Gemma4Config
from models.gemma4_layers import ComputedRotation, Gemma4Layer
from models.layers import Attend

FULL = "full_attention"


class Gemma4DraftLayer(Gemma4Layer):
    """A layer that shares keys and values with no other, and is told nothing but the residual stream."""

    def forward(self, layer: int, x: Tensor, rotation: tuple[Tensor, Tensor], attend: Attend) -> Tensor:  # type: ignore[override]
        """Advance the residual stream x [..., H] by one layer."""
        return super().forward(layer, x, rotation, attend, None, None)[0]


class Gemma4Backbone(Gemma4Config, frozen=True, kw_only=True):
    """The draft layers that a config describes (`models/draft_config.py` Backbone)."""

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> Self:
        """Read a drafter's canonical config; raises CheckpointError for layers that are not computed."""
        if any(kind != FULL for kind in config.get("layer_types") or ()):
            raise CheckpointError(f"layer_types of Gemma 4 draft layers must all be {FULL!r}")
        for key in ("enable_moe_block", "hidden_size_per_layer_input"):
            if config.get(key):
                raise CheckpointError(f"config.json sets {key}, which is not supported for Gemma 4 draft layers")
        if config.get("use_double_wide_mlp") and config.get("num_kv_shared_layers"):
            raise CheckpointError("config.json sets use_double_wide_mlp, which is not supported for Gemma 4 drafters")
        needed = ["global_head_dim", *(["num_global_key_value_heads"] if config.get("attention_k_eq_v") else [])]
        for key in needed:
            if config.get(key) is None:
                # transformers' per_layer_config counts the layers of the target that the config was copied from.
                raise CheckpointError(f"config.json: {key} is missing; Gemma 4 draft layers have the heads it tells")
        plain = {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0, "per_layer_config": None}
        return super().from_json({**config, **plain, "layer_types": [FULL] * config.get("num_hidden_layers", 0)})

    def make_layers(self) -> Iterable[Gemma4DraftLayer]:
        """Build all draft layers in order."""
        return (Gemma4DraftLayer(self, index) for index in range(self.num_hidden_layers))

    def make_rotation(self, num_positions: int) -> ComputedRotation:  # noqa: ARG002 - angles are computed, for any
        """Build the rotation that all layers share."""
        return ComputedRotation(self.rope_parameters["full_attention"].periods(self.heads[0].size))

    @property
    def embedding_scale(self) -> float:
        """What an embedding of the drafter's own is multiplied by."""
        return float(self.hidden_size**0.5)

    @property
    def logit_cap(self) -> float | None:
        """What logits of a head of the drafter's own stay within."""
        return self.final_logit_softcapping
