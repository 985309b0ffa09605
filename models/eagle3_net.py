"""The Eagle3 draft network: one decoder layer over pairs of a state and the token after it (arXiv 2503.01840).

Row t pairs the fused features of target row t with token t + 1 and predicts token t + 2; further drafts are fed the
layer's own output in place of features. Checkpoints differ in what they norm, and where: `Eagle3Config` says it. The
network holds no cache: attention is injected, and since there is one layer, whose rows feed no other row but through
keys and values, these are all that a past row leaves behind.
"""

from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.errors import CheckpointError
from core.types import Numerics
from models.decoder import DecoderConfig
from models.layers import MLP, Attend, RMSNorm, Rotation, rotate
from models.llama import LlamaConfig
from models.network import Network
from models.qwen3 import Qwen3Config
from models.shape import AttentionShape

# By model_type: what the layer's sizes and its rotation are.
FAMILIES: dict[str, type[DecoderConfig]] = {"qwen3": Qwen3Config, "llama": LlamaConfig}


class Eagle3Keys(msgspec.Struct, frozen=True, kw_only=True):
    """What a canonical Eagle3 config says beyond the backbone's shape; defaults are DeepSpec's.

    num_target_layers     None where the file does not say
    target_hidden_size    width of one captured feature; None is the backbone's
    draft_vocab_size      tokens it can draft; None is all
    num_drafts            steps that it was trained for
    qk_norm               norm the heads of queries and keys
    norm_before_residual  the residual is the normed state, not the state
    norm_before_fc        norm all features together before they are fused
    fc_norm               norm each feature before they are fused
    feeds_normed          drafts are fed the normed output, not the output
    attention_bias        the four projections of attention have biases
    """

    target_layer_ids: tuple[int, ...]
    num_target_layers: int | None = None
    target_hidden_size: int | None = None
    draft_vocab_size: int | None = None
    num_drafts: int = 7
    qk_norm: bool = True
    norm_before_residual: bool = False
    norm_before_fc: bool = False
    fc_norm: bool = False
    feeds_normed: bool = False
    attention_bias: bool = False


class Eagle3Config(Eagle3Keys, frozen=True, kw_only=True):
    """A drafter: its keys, and the sizes and the rotation of its layer, of whichever family it is."""

    backbone: DecoderConfig

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
        fields |= {name: config[name] for name in Eagle3Keys.__struct_fields__ if name in config}
        backbone = FAMILIES[family].from_json({"num_hidden_layers": 1, **config, "attention_bias": False})
        try:
            keys = msgspec.convert(fields, Eagle3Keys)
        except msgspec.ValidationError as error:
            raise CheckpointError(f"config.json does not describe an Eagle3 drafter: {error}") from error
        made = cls(backbone=backbone, **msgspec.structs.asdict(keys))
        made.check()
        return made

    def check(self) -> None:
        """Raise CheckpointError for values that contradict each other."""
        ids, vocab_size = self.target_layer_ids, self.backbone.vocab_size
        if not ids or list(ids) != sorted(set(ids)) or ids[0] < -1:
            raise CheckpointError(f"target_layer_ids must ascend from -1 or above, got {list(ids)}")
        if self.num_drafts < 1:
            raise CheckpointError(f"num_drafts must be at least 1, got {self.num_drafts}")
        if not 2 <= self.drafted_vocab_size <= vocab_size:
            raise CheckpointError(f"draft_vocab_size must lie in 2..{vocab_size}, got {self.draft_vocab_size}")
        if self.norm_before_fc and self.fc_norm:
            raise CheckpointError("norm_before_fc and fc_norm are both set; which norm comes first is not known")

    @property
    def feature_size(self) -> int:
        """Width of one captured feature."""
        return self.backbone.hidden_size if self.target_hidden_size is None else self.target_hidden_size

    @property
    def drafted_vocab_size(self) -> int:
        """Tokens that it can draft."""
        return self.backbone.vocab_size if self.draft_vocab_size is None else self.draft_vocab_size

    @property
    def attention(self) -> AttentionShape:
        """The attention of its layer. The first position has no feature before it, and so no key."""
        return msgspec.structs.replace(self.backbone.shape.layers[0], skips=1)


class PairAttention(nn.Module):
    """Grouped-query attention from rows of twice the hidden size, the normed token and the normed state."""

    def __init__(self, config: Eagle3Config) -> None:
        super().__init__()
        shape, bias = config.backbone, config.attention_bias
        self.num_heads, self.num_kv_heads = shape.num_attention_heads, shape.num_key_value_heads
        self.head_dim, size = shape.head_dim, shape.hidden_size
        self.qkv_proj = nn.Linear(2 * size, (self.num_heads + 2 * self.num_kv_heads) * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(self.num_heads * self.head_dim, size, bias=bias)
        self.q_norm = RMSNorm(self.head_dim, shape.rms_norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(self.head_dim, shape.rms_norm_eps) if config.qk_norm else None
        self.keys_values_proj: nn.Linear | None = None

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        """Attend from x [..., 2H]; rotation is `Rotation.at` of the rows' positions."""
        qkv = self.qkv_proj(x).unflatten(-1, (-1, self.head_dim))
        q, k, v = qkv.split((self.num_heads, self.num_kv_heads, self.num_kv_heads), -2)
        q = q if self.q_norm is None else self.q_norm(q)
        return self.o_proj(attend(0, rotate(q, *rotation), self._rotated_keys(k, rotation), v).flatten(-2))

    def keys_values(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Project x [..., 2H] to roped keys and values [..., Hkv, D], without queries."""
        proj = self.keys_values_proj
        projected = F.linear(x, *self._keys_values_part()) if proj is None else proj(x)
        k, v = projected.unflatten(-1, (-1, self.head_dim)).chunk(2, -2)
        return self._rotated_keys(k, rotation), v

    def split_off_keys_values(self) -> None:
        """Let keys and values be one product of their own; for inference."""
        weight, bias = self._keys_values_part()
        proj = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        proj.weight = nn.Parameter(weight, requires_grad=False)
        if bias is not None:
            proj.bias = nn.Parameter(bias, requires_grad=False)
        self.keys_values_proj = proj

    def _keys_values_part(self) -> tuple[Tensor, Tensor | None]:
        """Return the weight [2 * Hkv * D, 2H] and the bias [2 * Hkv * D] that make keys and values alone."""
        start, bias = self.num_heads * self.head_dim, self.qkv_proj.bias
        return self.qkv_proj.weight[start:], None if bias is None else bias[start:]

    def _rotated_keys(self, k: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        return rotate(k if self.k_norm is None else self.k_norm(k), *rotation)


class PairLayer(nn.Module):
    """A decoder layer over pairs; its residual stream is the state's alone."""

    def __init__(self, config: Eagle3Config) -> None:
        super().__init__()
        shape = config.backbone
        size, eps = shape.hidden_size, shape.rms_norm_eps
        self.norm_before_residual = config.norm_before_residual
        self.input_layernorm = RMSNorm(size, eps)
        self.hidden_norm = RMSNorm(size, eps)
        self.self_attn = PairAttention(config)
        self.post_attention_layernorm = RMSNorm(size, eps)
        self.mlp = MLP(size, shape.intermediate_size)

    def forward(self, state: Tensor, embedded: Tensor, rotation: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        """Return the residual stream [..., H] after the layer, from states and embedded tokens [..., H]."""
        normed = self.hidden_norm(state)
        pair = torch.cat((self.input_layernorm(embedded), normed), -1)
        x = (normed if self.norm_before_residual else state) + self.self_attn(pair, rotation, attend)
        return x + self.mlp(self.post_attention_layernorm(x))

    def keys_values(self, state: Tensor, embedded: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the keys and values [..., Hkv, D] of pairs."""
        pair = torch.cat((self.input_layernorm(embedded), self.hidden_norm(state)), -1)
        return self.self_attn.keys_values(pair, rotation)


class Eagle3Net(Network):
    """Feature fusion, one layer and the final norm.

    has_embedding, has_head  whether it has its own, else the target's serve it. A reduced vocabulary has its own head,
                             and target_ids i64 [draft_vocab_size] says which of the target's tokens it drafts
    """

    target_ids: Tensor | None

    def __init__(
        self,
        config: Eagle3Config,
        numerics: Numerics = Numerics.FAST,
        *,
        has_embedding: bool = False,
        has_head: bool = False,
    ) -> None:
        super().__init__(numerics)
        self.config = config
        shape, num_features = config.backbone, len(config.target_layer_ids)
        size, eps = shape.hidden_size, shape.rms_norm_eps
        self.fc = nn.Linear(num_features * config.feature_size, size, bias=False)
        self.input_norm = RMSNorm(num_features * config.feature_size, eps) if config.norm_before_fc else None
        norms = (RMSNorm(config.feature_size, eps) for _ in range(num_features))
        self.fc_norm = nn.ModuleList(norms) if config.fc_norm else None
        self.layers = nn.ModuleList((PairLayer(config),))
        self.norm = RMSNorm(size, eps)
        self.embed_tokens = nn.Embedding(shape.vocab_size, size) if has_embedding else None
        self.lm_head = nn.Linear(size, config.drafted_vocab_size, bias=False) if has_head else None
        self.register_buffer("target_ids", None, persistent=False)
        # A chain may begin at the very end of the context.
        num_positions = shape.max_position_embeddings + config.num_drafts
        self.rotation = Rotation(shape.head_dim, shape.rope_theta, num_positions, scaling=shape.scaling)

    def prepare(self) -> None:
        """Give keys and values a product of their own: they are all that is wanted of most rows."""
        self._layer.self_attn.split_off_keys_values()

    def fuse(self, features: Tensor) -> Tensor:
        """Fuse target features [..., m * feature_size] into the state [..., H] that a token is paired with."""
        if self.input_norm is not None:
            features = self.input_norm(features)
        if self.fc_norm is not None:
            parts = features.chunk(len(self.fc_norm), -1)
            features = torch.cat([norm(part) for norm, part in zip(self.fc_norm, parts, strict=True)], -1)
        return self.fc(features)

    def keys_values(self, state: Tensor, embedded: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values [..., Hkv, D] of pairs, which never change: they can be cached per token.

        state      [..., H]; fused features of target rows, or what the layer gave out in their place
        embedded   [..., H]; the tokens after those rows
        positions  [...]; of the rows, not of the tokens: by these keys are rotated
        """
        return self._layer.keys_values(state, embedded, self.rotation.at(positions, state.dtype))

    def forward(self, state: Tensor, embedded: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Run pairs, as in `keys_values`, through the layer; returns its un-normed output [..., H]."""
        return self._layer(state, embedded, self.rotation.at(positions, state.dtype), attend)

    @property
    def _layer(self) -> PairLayer:
        layer = self.layers[0]
        assert isinstance(layer, PairLayer)
        return layer
