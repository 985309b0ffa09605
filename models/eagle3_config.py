"""What an Eagle3 config says: DeepSpec's keys, and those by which other checkpoints of the kind differ."""

from typing import Any

import msgspec

from core.errors import CheckpointError
from models.decoder import DecoderConfig
from models.draft_config import DraftConfig
from models.llama import LlamaConfig
from models.qwen3 import Qwen3Config
from models.shape import AttentionShape

# By model_type: what the layer is, but for what Eagle3Config says of it.
FAMILIES: dict[str, type[DecoderConfig]] = {"qwen3": Qwen3Config, "llama": LlamaConfig}


class Eagle3Config(DraftConfig, frozen=True, kw_only=True):
    """A drafter: its layer's shape and rotation, of whichever family, and what it norms; defaults are DeepSpec's.

    num_drafts            steps that it was trained for
    qk_norm               norm the heads of queries and keys
    norm_before_residual  the residual is the normed state, not the state
    norm_before_fc        norm all features together before they are fused
    fc_norm               norm each feature before they are fused
    feeds_normed          drafts are fed the normed output, not the output
    attention_bias        the four projections of attention have biases
    """

    num_drafts: int = 7
    qk_norm: bool = True
    norm_before_residual: bool = False
    norm_before_fc: bool = False
    fc_norm: bool = False
    feeds_normed: bool = False
    attention_bias: bool = False

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> "Eagle3Config":
        """Read a canonical config; raises CheckpointError naming the key that cannot be served."""
        family = config.get("model_type", "qwen3")
        if family not in FAMILIES:
            raise CheckpointError(
                f"Eagle3 with model_type {family!r} is not supported; its layer must be of {' or '.join(FAMILIES)}"
            )
        if config.get("num_hidden_layers", 1) != 1:
            raise CheckpointError(f"an Eagle3 drafter has 1 layer, num_hidden_layers is {config['num_hidden_layers']}")
        if config.get("mlp_bias"):
            raise CheckpointError("config.json sets mlp_bias, which is not supported for Eagle3")
        fields: dict[str, Any] = {"num_drafts": config.get("ttt_length", 7), "qk_norm": family == "qwen3"}
        fields |= {name: config[name] for name in cls.__struct_fields__ if name in config}
        # Biases are this config's to say, in either family.
        fields["backbone"] = FAMILIES[family].from_json({"num_hidden_layers": 1, **config, "attention_bias": False})
        try:
            made = msgspec.convert(fields, cls)
        except msgspec.ValidationError as error:
            raise CheckpointError(f"config.json does not describe an Eagle3 drafter: {error}") from error
        made.check()
        return made

    def check(self) -> None:
        """Raise CheckpointError for values that contradict each other."""
        super().check()
        if self.num_drafts < 1:
            raise CheckpointError(f"num_drafts must be at least 1, got {self.num_drafts}")
        if self.norm_before_fc and self.fc_norm:
            raise CheckpointError("norm_before_fc and fc_norm are both set; which norm comes first is not known")

    @property
    def attention(self) -> AttentionShape:
        """The attention of its layer. The first position has no feature before it, and so no key."""
        return msgspec.structs.replace(self.backbone.shape.layers[0], skips=1)
