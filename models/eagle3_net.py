"""The Eagle3 draft network: one decoder layer over pairs of a state and the token after it (arXiv 2503.01840).

Row t pairs the fused features of target row t with token t + 1 and predicts token t + 2; further drafts are fed the
layer's own output in place of features. Checkpoints differ in what they norm, and where: `Eagle3Config` says it. The
network holds no cache: attention is injected, and since there is one layer, whose rows feed no other row but through
keys and values, these are all that a past row leaves behind.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.types import Numerics
from kernels.norms import add_norm
from models.draft_fit import DraftNetwork
from models.eagle3_config import Eagle3Config
from models.layers import MLP, Attend, Attention, RMSNorm, fixed_linear


class PairLayer(nn.Module):
    """A decoder layer over pairs, the normed token and the normed state; its residual stream is the state's alone."""

    def __init__(self, config: Eagle3Config) -> None:
        super().__init__()
        shape = config.backbone
        size, eps = shape.hidden_size, shape.rms_norm_eps
        self.norm_before_residual = config.norm_before_residual
        self.input_layernorm = RMSNorm(size, eps)
        self.hidden_norm = RMSNorm(size, eps)
        heads = shape.shape.layers[0]
        self.self_attn = Attention(
            size,
            heads.num_heads,
            heads.num_kv_heads,
            heads.head_dim,
            eps,
            has_qk_norm=config.qk_norm,
            bias=config.attention_bias,
            input_size=2 * size,
        )
        self.post_attention_layernorm = RMSNorm(size, eps)
        self.mlp = MLP(size, shape.intermediate_size)
        self.keys_values_proj: nn.Linear | None = None

    def forward(self, state: Tensor, embedded: Tensor, rotation: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        """Return the residual stream [..., H] after the layer, from states and embedded tokens [..., H]."""
        normed = self.hidden_norm(state)
        pair = torch.cat((self.input_layernorm(embedded), normed), -1)
        mixed = self.self_attn(0, pair, rotation, attend)
        x, normed = add_norm(normed if self.norm_before_residual else state, mixed, self.post_attention_layernorm)
        return x + self.mlp(normed)

    def keys_values(self, state: Tensor, embedded: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the keys and values [..., Hkv, D] of pairs."""
        pair = torch.cat((self.input_layernorm(embedded), self.hidden_norm(state)), -1)
        proj = self.keys_values_proj
        projected = F.linear(pair, *self.self_attn.keys_values_projection()) if proj is None else proj(pair)
        return self.self_attn.split_keys_values(projected, rotation)

    def split_off_keys_values(self) -> None:
        """Let keys and values be one product of their own; for inference."""
        self.keys_values_proj = fixed_linear(*self.self_attn.keys_values_projection())


class Eagle3Net(DraftNetwork):
    """Feature fusion, one layer and the final norm."""

    config: Eagle3Config

    def __init__(self, config: Eagle3Config, numerics: Numerics = Numerics.FAST) -> None:
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
        # A chain may begin at the very end of the context.
        self.rotation = shape.make_rotation(shape.max_position_embeddings + config.num_drafts)

    def prepare(self) -> None:
        """Give keys and values a product of their own: they are all that is wanted of most rows."""
        self._layer.split_off_keys_values()

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
