"""The dense Qwen3 decoder (transformers `Qwen3ForCausalLM`), with taps for the features drafters read.

It knows weights and arithmetic only; attention over caches is injected (models/layers.py).
"""

from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from core.errors import CheckpointError
from core.types import Numerics
from models.layers import Attend, DecoderLayer, RMSNorm, Rotation
from models.shape import AttentionShape, TargetShape
from models.target import Target


class Qwen3Config(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of config.json that decide the arithmetic; the rest of the file is not read."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1_000_000.0
    max_position_embeddings: int = 40960
    tie_word_embeddings: bool = False

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> "Qwen3Config":
        """Read a Hugging Face config.json; raises CheckpointError for what this network does not compute."""
        fields = {name: config[name] for name in cls.__struct_fields__ if name in config}
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        if rope.get("rope_type", rope.get("type", "default")) != "default":
            raise CheckpointError(f"rope type {rope!r} is not supported; only 'default' is")
        if "rope_theta" in rope:
            fields["rope_theta"] = rope["rope_theta"]
        for key in ("attention_bias", "use_sliding_window"):
            if config.get(key):
                raise CheckpointError(f"config.json sets {key}, which is not supported for qwen3")
        if config.get("hidden_act", "silu") != "silu":
            raise CheckpointError(f"hidden_act must be 'silu', got {config['hidden_act']!r}")
        if "quantization_config" in config:
            raise CheckpointError("quantised checkpoints (quantization_config) are not supported")
        if "head_dim" not in fields and "hidden_size" in fields and "num_attention_heads" in fields:
            fields["head_dim"] = fields["hidden_size"] // fields["num_attention_heads"]
        try:
            return msgspec.convert(fields, cls)
        except msgspec.ValidationError as error:
            raise CheckpointError(f"config.json does not describe a qwen3 model: {error}") from error

    @property
    def shape(self) -> TargetShape:
        """What the engine and drafters know of it."""
        attention = AttentionShape(
            num_heads=self.num_attention_heads, num_kv_heads=self.num_key_value_heads, head_dim=self.head_dim
        )
        return TargetShape(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            max_positions=self.max_position_embeddings,
            layers=(attention,) * self.num_hidden_layers,
        )

    def layer(self) -> DecoderLayer:
        """Build one decoder layer of this shape."""
        return DecoderLayer(
            self.hidden_size,
            self.intermediate_size,
            self.num_attention_heads,
            self.num_key_value_heads,
            self.head_dim,
            self.rms_norm_eps,
        )


class Qwen3(Target):
    """The dense Qwen3 decoder."""

    def __init__(self, config: Qwen3Config, numerics: Numerics = Numerics.FAST) -> None:
        super().__init__(config.shape, numerics)
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(config.layer() for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        self.rotation = Rotation(config.head_dim, config.rope_theta, config.max_position_embeddings)

    def forward(
        self, tokens: Tensor, positions: Tensor, attend: Attend, capture: tuple[int, ...] = ()
    ) -> tuple[Tensor, Tensor | None]:
        """Run the network (`Target.forward`)."""
        x = self.embed_tokens(tokens)
        rotation = self.rotation.at(positions, x.dtype)
        taps = [x] if -1 in capture else []
        for index, layer in enumerate(self.layers):
            x = layer(index, x, rotation, attend)
            if index in capture:
                taps.append(x)
        return self.norm(x), torch.cat(taps, -1) if taps else None

    def embed(self, tokens: Tensor) -> Tensor:
        """Look the tokens up."""
        return self.embed_tokens(tokens)

    def logits(self, hidden: Tensor) -> Tensor:
        """Map final hidden states [..., H] to logits [..., V] in float32."""
        return self.lm_head(hidden).float()

    @property
    def embedding(self) -> Tensor:
        """The embedding's weight."""
        return self.embed_tokens.weight

    @property
    def head(self) -> Tensor:
        """The head's weight."""
        return self.lm_head.weight
