"""The Llama decoder (transformers `LlamaForCausalLM`): no norms of heads, the rotation perhaps stretched."""

from typing import Any, ClassVar, Self

from torch import nn

from core.types import Numerics
from models.decoder import Decoder, DecoderConfig
from models.layers import DecoderLayer
from models.rope import RopeScaling


class LlamaConfig(DecoderConfig, frozen=True, kw_only=True):
    """The keys of a llama config.json, with transformers' defaults."""

    family: ClassVar[str] = "llama"

    rope_scaling: RopeScaling | None = None
    attention_bias: bool = False
    mlp_bias: bool = False

    @property
    def scaling(self) -> RopeScaling | None:
        """How the rotation is stretched."""
        return self.rope_scaling

    def layer(self, mlp: nn.Module | None = None) -> DecoderLayer:
        """Build one decoder layer of this shape, with `mlp` in the place of the ordinary one."""
        return DecoderLayer(
            self.hidden_size,
            self.intermediate_size,
            self.num_attention_heads,
            self.num_key_value_heads,
            self.head_dim,
            self.rms_norm_eps,
            has_qk_norm=False,
            attention_bias=self.attention_bias,
            mlp_bias=self.mlp_bias,
            mlp=mlp,
        )


class Llama(Decoder):
    """The Llama decoder."""

    config_type = LlamaConfig

    def __init__(self, config: LlamaConfig, numerics: Numerics = Numerics.FAST) -> None:
        super().__init__(config, numerics)
        self.config = config

    @classmethod
    def from_json(cls, config: dict[str, Any], numerics: Numerics) -> Self:
        """Build the network that a config.json describes, weights not loaded; raises CheckpointError."""
        return cls(LlamaConfig.from_json(config), numerics)
