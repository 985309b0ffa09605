"""The layers of Gemma 4's text decoder: attention with three norms, a gated MLP, perhaps experts beside it.

Its RMSNorm multiplies by the plain weight, as everybody's does (not 1 + w as in Gemma 1 to 3).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.activations import Activation, gelu_tanh
from kernels.rope_store import rotate
from models.experts import mix_experts
from models.gemma4_config import Gemma4Config
from models.layers import MLP, Attend, RMSNorm


class KeysValues(NamedTuple):
    """Roped keys and normed values [..., Hkv, D] of one layer, for those that share them."""

    keys: Tensor
    values: Tensor


class ComputedRotation(nn.Module):
    """Rotary position embedding whose angles are computed when asked for.

    A table (models/layers.py `Rotation`) of 131,072 positions by 512 channels would take half a gigabyte.
    """

    def __init__(self, periods: Tensor) -> None:
        super().__init__()
        # No buffer, which a cast of the network would round: angles need float32.
        self.periods = periods

    def at(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return cos and signed sin [..., 1, D] for positions [...], broadcast over heads (`Rotation.at`)."""
        if self.periods.device != positions.device:
            self.periods = self.periods.to(positions.device)
        angles = positions[..., None, None].float() / self.periods
        cos, sin = angles.cos(), angles.sin()
        return torch.cat((cos, cos), -1).to(dtype), torch.cat((-sin, sin), -1).to(dtype)


class Gemma4Attention(nn.Module):
    """Grouped-query attention; queries and keys have norms with weights, values one without.

    Values may be the very projection of the keys (attention_k_eq_v in full layers), and keys and values those of an
    earlier layer; then the weights are not there.
    """

    def __init__(self, config: Gemma4Config, index: int) -> None:
        super().__init__()
        (num_kv, size), eps = config.heads[index], config.rms_norm_eps
        self.num_heads, self.num_kv_heads, self.head_dim, self.eps = config.num_attention_heads, num_kv, size, eps
        self.q_norm = RMSNorm(size, eps)
        self.o_proj = nn.Linear(self.num_heads * size, config.hidden_size, bias=False)
        self.is_shared = config.kv_layer(index) is not None
        self.is_k_eq_v = config.attention_k_eq_v and not config.is_sliding(index)
        num_parts = self.num_heads + (0 if self.is_shared else num_kv * (1 if self.is_k_eq_v else 2))
        projection = nn.Linear(config.hidden_size, num_parts * size, bias=False)
        # Named after what is in it, by which files are read (models/checkpoint.py).
        if self.is_shared:
            self.q_proj = projection
        elif self.is_k_eq_v:
            self.qk_proj = projection
        else:
            self.qkv_proj = projection
        if not self.is_shared:
            self.k_norm = RMSNorm(size, eps)

    def forward(
        self, layer: int, x: Tensor, rotation: tuple[Tensor, Tensor], attend: Attend, shared: KeysValues | None
    ) -> tuple[Tensor, KeysValues]:
        """Attend from x [..., H]; returns the output [..., H] and what it attended to."""
        if shared is not None:
            q, kv = self._heads(self.q_proj(x)), shared
        elif self.is_k_eq_v:
            q, k = self._heads(self.qk_proj(x)).split((self.num_heads, self.num_kv_heads), -2)
            kv = self._keys_values(k, k, rotation)
        else:
            sizes = (self.num_heads, self.num_kv_heads, self.num_kv_heads)
            q, k, v = self._heads(self.qkv_proj(x)).split(sizes, -2)
            kv = self._keys_values(k, v, rotation)
        mixed = attend(layer, rotate(self.q_norm(q), *rotation), kv.keys, kv.values)
        return self.o_proj(mixed.flatten(-2)), kv

    def keys_values_projection(self) -> tuple[Tensor, None]:
        """Return the weight [n * Hkv * D, H] that makes keys and values alone, n being 1 where they are one; no bias.

        For a layer that makes its own.
        """
        projection = self.qk_proj if self.is_k_eq_v else self.qkv_proj
        return projection.weight[self.num_heads * self.head_dim :], None

    def split_keys_values(self, kv: Tensor, rotation: tuple[Tensor, Tensor]) -> KeysValues:
        """Turn a projection [..., n * Hkv * D] into roped keys and normed values [..., Hkv, D]."""
        heads = self._heads(kv)
        k, v = (heads, heads) if self.is_k_eq_v else heads.chunk(2, -2)
        return self._keys_values(k, v, rotation)

    def _heads(self, projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (-1, self.head_dim))

    def _keys_values(self, k: Tensor, v: Tensor, rotation: tuple[Tensor, Tensor]) -> KeysValues:
        return KeysValues(rotate(self.k_norm(k), *rotation), F.rms_norm(v, (self.head_dim,), None, self.eps))


class Gemma4Router(nn.Module):
    """Chooses each row's experts: softmax over all, the best scaled to sum to one, then each by a weight of its own."""

    def __init__(self, config: Gemma4Config) -> None:
        super().__init__()
        self.proj = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.scale = nn.Parameter(torch.ones(config.hidden_size))
        self.per_expert_scale = nn.Parameter(torch.ones(config.num_experts))
        self.num_chosen, self.eps = config.top_k_experts, config.rms_norm_eps

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the chosen experts i64 [N, K] and their weights f32 [N, K] for rows [N, H]."""
        size = rows.shape[-1]
        scores = self.proj(F.rms_norm(rows, (size,), None, self.eps) * self.scale * size**-0.5)
        weights, chosen = scores.softmax(-1, dtype=torch.float32).topk(self.num_chosen, -1)
        return chosen, weights / weights.sum(-1, keepdim=True) * self.per_expert_scale[chosen]


class Gemma4Layer(nn.Module):
    """Attention, MLP with or without experts beside it, and the per-layer input, each normed before it is added."""

    def __init__(self, config: Gemma4Config, index: int) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        self.input_layernorm = RMSNorm(size, eps)
        self.self_attn = Gemma4Attention(config, index)
        self.post_attention_layernorm = RMSNorm(size, eps)
        self.pre_feedforward_layernorm = RMSNorm(size, eps)
        self.mlp = MLP(size, config.mlp_size(index), activation=gelu_tanh)
        self.post_feedforward_layernorm = RMSNorm(size, eps)
        self.layer_scalar = nn.Parameter(torch.ones(1))
        self.activation: Activation = gelu_tanh
        self.looks_at_values = self.has_experts = config.enable_moe_block
        if self.has_experts:
            self.router = Gemma4Router(config)
            self.experts = nn.ModuleList(
                MLP(size, config.moe_intermediate_size, activation=gelu_tanh) for _ in range(config.num_experts)
            )
            self.post_feedforward_layernorm_1 = RMSNorm(size, eps)
            self.pre_feedforward_layernorm_2 = RMSNorm(size, eps)
            self.post_feedforward_layernorm_2 = RMSNorm(size, eps)
        if config.hidden_size_per_layer_input:
            self.per_layer_input_gate = nn.Linear(size, config.hidden_size_per_layer_input, bias=False)
            self.per_layer_projection = nn.Linear(config.hidden_size_per_layer_input, size, bias=False)
            self.post_per_layer_input_norm = RMSNorm(size, eps)

    def forward(
        self,
        layer: int,
        x: Tensor,
        rotation: tuple[Tensor, Tensor],
        attend: Attend,
        shared: KeysValues | None,
        per_layer_input: Tensor | None,
    ) -> tuple[Tensor, KeysValues]:
        """Advance the residual stream x [..., H], told [..., P] by the per-layer input.

        Returns the stream and the keys and values that the layer attended to.
        """
        mixed, kv = self.self_attn(layer, self.input_layernorm(x), rotation, attend, shared)
        x = x + self.post_attention_layernorm(mixed)
        x = x + self.post_feedforward_layernorm(self._feed_forward(x))
        if per_layer_input is not None:
            told = self.per_layer_projection(self.activation(self.per_layer_input_gate(x)) * per_layer_input)
            x = x + self.post_per_layer_input_norm(told)
        return x * self.layer_scalar, kv

    def _feed_forward(self, x: Tensor) -> Tensor:
        dense = self.mlp(self.pre_feedforward_layernorm(x))
        if not self.has_experts:
            return dense
        rows = x.reshape(-1, x.shape[-1])
        chosen, weights = self.router(rows)
        sparse = mix_experts(self.pre_feedforward_layernorm_2(rows), chosen, weights, self.experts).view_as(x)
        return self.post_feedforward_layernorm_1(dense) + self.post_feedforward_layernorm_2(sparse)
