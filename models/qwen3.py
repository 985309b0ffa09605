"""The dense Qwen3 decoder (transformers `Qwen3ForCausalLM`): per-head norms of queries and keys, no biases.

It knows weights and arithmetic only; attention over caches is injected (models/layers.py).
"""

from typing import Any, ClassVar, Self

from core.types import Numerics
from models.decoder import Decoder, DecoderConfig


class Qwen3Config(DecoderConfig, frozen=True, kw_only=True):
    """The keys of a qwen3 config.json, with transformers' defaults."""

    family: ClassVar[str] = "qwen3"

    rope_theta: float = 1_000_000.0
    max_position_embeddings: int = 40960


class Qwen3(Decoder):
    """The dense Qwen3 decoder."""

    config_type = Qwen3Config

    def __init__(self, config: Qwen3Config, numerics: Numerics = Numerics.FAST) -> None:
        super().__init__(config, numerics)
        self.config = config

    @classmethod
    def from_json(cls, config: dict[str, Any], numerics: Numerics) -> Self:
        """Build the network that a config.json describes, weights not loaded; raises CheckpointError."""
        return cls(Qwen3Config.from_json(config), numerics)
