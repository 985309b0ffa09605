"""What dense and sparse decoders of the Llama kind have in common: config keys, stack, head, taps for features.

A family (models/qwen3.py, models/llama.py, ...) says which keys it has beyond these and what one of its layers is.
"""

from collections.abc import Iterable
from typing import Any, ClassVar, Self

import msgspec
import torch
from torch import Tensor, nn

from core.errors import CheckpointError
from core.types import Numerics
from models.checkpoint import strip_prefix
from models.layers import Attend, DecoderLayer, RMSNorm, Rotation
from models.rope import RopeScaling, read_rope
from models.shape import AttentionShape, TargetShape
from models.target import Target


class DecoderConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of config.json that decide the arithmetic; the rest of the file is not read."""

    family: ClassVar[str]

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    max_position_embeddings: int = 2048
    tie_word_embeddings: bool = False

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> Self:
        """Read a Hugging Face config.json; raises CheckpointError for what this network does not compute."""
        try:
            return msgspec.convert(cls.read_fields(config), cls)
        except msgspec.ValidationError as error:
            raise CheckpointError(f"config.json does not describe a {cls.family} model: {error}") from error

    @classmethod
    def read_fields(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Return the fields by name, each of whatever type the file has; raises CheckpointError."""
        fields = {name: config[name] for name in cls.__struct_fields__ if config.get(name) is not None}
        theta, scaling = read_rope(config)
        if theta is not None:
            fields["rope_theta"] = theta
        if scaling is not None:
            if "rope_scaling" not in cls.__struct_fields__:
                raise CheckpointError(f"rope type {scaling!r} is not supported for {cls.family}; only 'default' is")
            fields["rope_scaling"] = scaling
        else:
            fields.pop("rope_scaling", None)
        for key in ("attention_bias", "mlp_bias", "use_sliding_window"):
            if config.get(key) and key not in cls.__struct_fields__:
                raise CheckpointError(f"config.json sets {key}, which is not supported for {cls.family}")
        if config.get("hidden_act", "silu") != "silu":
            raise CheckpointError(f"hidden_act must be 'silu', got {config['hidden_act']!r}")
        heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
        if isinstance(heads, int) and isinstance(hidden, int) and heads:
            fields.setdefault("head_dim", hidden // heads)
            fields.setdefault("num_key_value_heads", heads)
        return fields

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

    @property
    def scaling(self) -> RopeScaling | None:
        """How the rotation is stretched."""
        return None

    def layer(self, mlp: nn.Module | None = None) -> DecoderLayer:
        """Build one decoder layer of this shape, with `mlp` in the place of the ordinary one."""
        return DecoderLayer(
            self.hidden_size,
            self.intermediate_size,
            self.num_attention_heads,
            self.num_key_value_heads,
            self.head_dim,
            self.rms_norm_eps,
            mlp=mlp,
        )

    def make_layers(self) -> Iterable[DecoderLayer]:
        """Build all decoder layers in order."""
        return (self.layer() for _ in range(self.num_hidden_layers))

    def make_rotation(self, num_positions: int) -> Rotation:
        """Build the rotation that all layers share, for so many positions."""
        return Rotation(self.head_dim, self.rope_theta, num_positions, scaling=self.scaling)

    @property
    def embedding_scale(self) -> float:
        """What embeddings are multiplied by."""
        return 1.0

    @property
    def logit_cap(self) -> float | None:
        """What logits stay within; None is no bound."""
        return None

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Return (what, value) for people to read, beyond the shape."""
        return [("mlp", str(self.intermediate_size))]


class Decoder(Target):
    """Embedding, a stack of pre-norm layers that share one rotation, final norm and head."""

    def __init__(self, config: DecoderConfig, numerics: Numerics = Numerics.FAST) -> None:
        super().__init__(config.shape, numerics)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(config.make_layers())
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        self.rotation = config.make_rotation(config.max_position_embeddings)

    def own_tensors(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Name a file's tensors as the parameters here; a tied head's copy is left out (`Target.own_tensors`)."""
        own = strip_prefix(tensors, "model.")
        if self.lm_head.weight is self.embed_tokens.weight:
            own.pop("lm_head.weight", None)
        return own

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
        return self.computed_logits(hidden).float()

    def computed_logits(self, hidden: Tensor) -> Tensor:
        """Return the logits in the weights' own type (`Target.computed_logits`)."""
        return self.lm_head(hidden)

    @property
    def embedding(self) -> Tensor:
        """The embedding's weight."""
        return self.embed_tokens.weight

    @property
    def head(self) -> Tensor:
        """The head's weight."""
        return self.lm_head.weight
