"""What a DFlash or DSpark config says: DeepSpec's keys, and those by which other checkpoints of the family differ."""

from typing import Any, Literal

import msgspec

from core.errors import CheckpointError
from models.draft_config import Backbone, DraftConfig
from models.gemma4_draft import Gemma4Backbone
from models.llama import LlamaConfig
from models.qwen3 import Qwen3Config
from models.shape import AttentionShape

# By model_type: what one draft layer is.
FAMILIES: dict[str, type[Backbone]] = {"qwen3": Qwen3Config, "llama": LlamaConfig, "gemma4_text": Gemma4Backbone}
MarkovHeadType = Literal["vanilla", "gated", "rnn"]
FULL, SLIDING = "full_attention", "sliding_attention"


class DFlashConfig(DraftConfig, frozen=True, kw_only=True):
    """A drafter: the shape of its draft layers, of whichever family they are, and its keys; defaults are DeepSpec's.

    block_size          slots of a block, the anchor's included
    sample_from_anchor  slot j predicts the token after its own position; if not, the token at it, and slot 0 is unused
    layer_types         "full_attention" or "sliding_attention" per draft layer; () is full for all
    sliding_window      positions that a row of a sliding layer sees, its own included
    is_causal           in full layers a slot sees no slot behind it; sliding_is_causal the same of sliding layers
    markov_rank         of the sequential head; 0 is none, plain DFlash
    """

    block_size: int
    mask_token_id: int
    sample_from_anchor: bool = True
    layer_types: tuple[Literal["full_attention", "sliding_attention"], ...] = ()
    sliding_window: int | None = None
    is_causal: bool = False
    sliding_is_causal: bool = True
    markov_rank: int = 0
    markov_head_type: MarkovHeadType = "vanilla"
    enable_confidence_head: bool = False
    confidence_head_with_markov: bool = True

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> "DFlashConfig":
        """Read a canonical config; raises CheckpointError naming the key that cannot be served."""
        family = config.get("model_type") or "qwen3"
        if family not in FAMILIES:
            raise CheckpointError(
                f"draft layers of model_type {family!r} are not supported; those of {', '.join(FAMILIES)} are"
            )
        fields = {name: config[name] for name in cls.__struct_fields__ if config.get(name) is not None}
        if not fields.get("markov_rank"):
            # Files without the head may still name its kind.
            fields.pop("markov_head_type", None)
        shape = config
        if "layer_types" in fields:
            # Which layers slide is said by layer_types alone; in targets this key would say it for all.
            shape = {**config, "use_sliding_window": False}
        fields["backbone"] = FAMILIES[family].from_json(shape)
        try:
            made = msgspec.convert(fields, cls)
        except msgspec.ValidationError as error:
            raise CheckpointError(f"config.json does not describe a drafter: {error}") from error
        made.check()
        return made

    def check(self) -> None:
        """Raise CheckpointError for values that contradict each other."""
        super().check()
        vocab_size = self.backbone.vocab_size
        if self.num_drafts < 1:
            least = 1 if self.sample_from_anchor else 2
            raise CheckpointError(f"block_size must be at least {least}, got {self.block_size}")
        if not 0 <= self.mask_token_id < vocab_size:
            raise CheckpointError(f"mask_token_id must lie in 0..{vocab_size - 1}, got {self.mask_token_id}")
        if self.markov_rank < 0:
            raise CheckpointError(f"markov_rank must be 0 or more, got {self.markov_rank}")
        if self.layer_types and len(self.layer_types) != self.backbone.num_hidden_layers:
            raise CheckpointError(
                f"layer_types must name {self.backbone.num_hidden_layers} layers, it names {len(self.layer_types)}"
            )
        if SLIDING in self.layer_types and (self.sliding_window is None or self.sliding_window < 1):
            raise CheckpointError(f"sliding_attention needs a sliding_window of 1 or more, got {self.sliding_window}")

    @property
    def num_drafts(self) -> int:
        """G, the tokens that one block drafts."""
        return self.block_size if self.sample_from_anchor else self.block_size - 1

    @property
    def confidence_reads_markov(self) -> bool:
        """Tell whether the confidence head sees the embedding of the token before."""
        return self.confidence_head_with_markov and self.markov_rank > 0

    @property
    def attention(self) -> tuple[AttentionShape, ...]:
        """The attention of each draft layer."""
        layers = self.backbone.shape.layers
        kinds = self.layer_types or (FULL,) * len(layers)
        return tuple(self._attention(layer, kind) for layer, kind in zip(layers, kinds, strict=True))

    def _attention(self, layer: AttentionShape, kind: str) -> AttentionShape:
        if kind == SLIDING:
            return msgspec.structs.replace(layer, window=self.sliding_window, is_causal=self.sliding_is_causal)
        return msgspec.structs.replace(layer, is_causal=self.is_causal)
