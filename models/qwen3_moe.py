"""The sparse Qwen3 decoder (transformers `Qwen3MoeForCausalLM`): Qwen3 with experts in most layers."""

from collections.abc import Iterable
from typing import Any, ClassVar, Self

from core.types import Numerics
from models.decoder import Decoder, DecoderConfig
from models.experts import SparseMLP
from models.layers import DecoderLayer


class Qwen3MoeConfig(DecoderConfig, frozen=True, kw_only=True):
    """The keys of a qwen3_moe config.json, with transformers' defaults."""

    family: ClassVar[str] = "qwen3_moe"

    max_position_embeddings: int = 32768
    moe_intermediate_size: int
    num_experts: int
    num_experts_per_tok: int
    norm_topk_prob: bool = False
    decoder_sparse_step: int = 1
    mlp_only_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.num_experts_per_tok <= self.num_experts:
            raise ValueError(f"num_experts_per_tok must be in 1..{self.num_experts}, got {self.num_experts_per_tok}")

    @classmethod
    def read_fields(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Return the fields by name (`DecoderConfig.read_fields`)."""
        fields = super().read_fields(config)
        # transformers 5 writes the number of experts under another name than the files of the models' makers.
        if "num_local_experts" in config:
            fields.setdefault("num_experts", config["num_local_experts"])
        return fields

    def is_sparse(self, index: int) -> bool:
        """Tell whether layer `index` has experts."""
        return index not in self.mlp_only_layers and (index + 1) % self.decoder_sparse_step == 0

    def make_layers(self) -> Iterable[DecoderLayer]:
        """Build all decoder layers in order."""
        return (self._sparse_layer() if self.is_sparse(i) else self.layer() for i in range(self.num_hidden_layers))

    def _sparse_layer(self) -> DecoderLayer:
        experts = SparseMLP(
            self.hidden_size,
            self.moe_intermediate_size,
            self.num_experts,
            self.num_experts_per_tok,
            is_normed=self.norm_topk_prob,
        )
        return self.layer(experts)

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Return (what, value) for people to read, beyond the shape."""
        num_sparse = sum(map(self.is_sparse, range(self.num_hidden_layers)))
        experts = f"{self.num_experts_per_tok} of {self.num_experts} in {num_sparse} layers"
        return [*super().facts, ("experts", f"{experts}, mlp {self.moe_intermediate_size}")]


class Qwen3Moe(Decoder):
    """The sparse Qwen3 decoder."""

    config_type = Qwen3MoeConfig

    def __init__(self, config: Qwen3MoeConfig, numerics: Numerics = Numerics.FAST) -> None:
        super().__init__(config, numerics)
        self.config = config

    @classmethod
    def from_json(cls, config: dict[str, Any], numerics: Numerics) -> Self:
        """Build the network that a config.json describes, weights not loaded; raises CheckpointError."""
        return cls(Qwen3MoeConfig.from_json(config), numerics)
