"""The layers that target and draft networks are made of. Attention itself is injected.

A network computes queries, keys and values and hands them to an `Attend` callable, so that one forward serves
training (dense, causal), serving (paged, ragged) and drafting (a bidirectional block over a paged context). Nothing
here knows of caches, batches or sequences: leading shapes are free, [N] for ragged rows, [B, S] for training.
"""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.activations import INVARIANT, Activation, gated
from kernels.dispatch import infers_in_triton
from kernels.norms import LeanRMSNorm, add_norm, rms_norm
from kernels.rope_store import Projected, rotate
from models.rope import RopeScaling


class Attend(Protocol):
    """Attention of one layer: takes q [..., Hq, D], roped k and v [..., Hkv, D], returns [..., Hq, D]."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend with the new rows of `layer`; whoever supplies it also stores k and v."""
        ...


@runtime_checkable
class StoringAttend(Protocol):
    """An `Attend` over a cache, which on a GPU takes heads as they are projected and norms, turns and stores them."""

    def attend_projected(self, layer: int, projected: Projected) -> Tensor:
        """Return what the rows attend to [N, Hq, D] in `layer`."""
        ...


class Rotary(Protocol):
    """Where a network looks up how the heads of its queries and keys turn by position."""

    def at(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return cos and signed sin [..., 1, D] for positions [...] (`rotate`)."""
        ...


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis; the weight is plain, not 1 + w."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [..., size]."""
        return rms_norm(x, self.weight, self.eps)


class Rotation(nn.Module):
    """Rotary position embedding, half-split (not interleaved): tables of cosines and sines by position."""

    cos: Tensor
    sin: Tensor

    def __init__(self, head_dim: int, theta: float, max_positions: int, scaling: RopeScaling | None = None) -> None:
        super().__init__()
        periods = theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        if scaling is not None:
            periods = scaling.stretch(periods)
        angles = torch.arange(max_positions, dtype=torch.float32)[:, None] / periods
        self.register_buffer("cos", torch.cat((angles.cos(), angles.cos()), -1), persistent=False)
        # The sign of rotate_half is folded into the sine table, which saves a negation per call.
        self.register_buffer("sin", torch.cat((-angles.sin(), angles.sin()), -1), persistent=False)

    def at(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return cos and signed sin [..., 1, D] for positions [...], broadcast over heads."""
        return (
            self.cos[positions].unsqueeze(-2).to(dtype),
            self.sin[positions].unsqueeze(-2).to(dtype),
        )


class Attention(nn.Module):
    """Grouped-query attention; has_qk_norm: per-head RMSNorm of q and k before the rotation, as Qwen3 has it.

    input_size is the width of its rows; None is that of the residual stream, hidden_size.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        eps: float,
        *,
        has_qk_norm: bool = True,
        bias: bool = False,
        input_size: int | None = None,
    ) -> None:
        super().__init__()
        width = hidden_size if input_size is None else input_size
        self.num_heads, self.num_kv_heads, self.head_dim, self.eps = num_heads, num_kv_heads, head_dim, eps
        self.qkv_proj = nn.Linear(width, (num_heads + 2 * num_kv_heads) * head_dim, bias=bias)
        self.o_proj = nn.Linear(num_heads * head_dim, hidden_size, bias=bias)
        self.q_norm: RMSNorm | LeanRMSNorm | None = RMSNorm(head_dim, eps) if has_qk_norm else None
        self.k_norm: RMSNorm | LeanRMSNorm | None = RMSNorm(head_dim, eps) if has_qk_norm else None
        self.heads_norm: LeanRMSNorm | None = None

    def forward(self, layer: int, x: Tensor, rotation: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        """Attend from x [..., H]; rotation is `Rotation.at` of the rows' positions."""
        qkv = self.qkv_proj(x).unflatten(-1, (-1, self.head_dim))
        if infers_in_triton(qkv) and isinstance(attend, StoringAttend):
            projected = self.projected(qkv, rotation)
            return self.o_proj(attend.attend_projected(layer, projected).flatten(-2))
        heads, v = qkv.split((self.num_heads + self.num_kv_heads, self.num_kv_heads), -2)
        q, k = rotate(self._norm_heads(heads), *rotation).split((self.num_heads, self.num_kv_heads), -2)
        return self.o_proj(attend(layer, q, k, v).flatten(-2))

    def projected(self, heads: Tensor, rotation: tuple[Tensor, Tensor], num_heads: int | None = None) -> Projected:
        """Describe projected heads [N, num_heads + 2 * Hkv, D] to the kernel; None is all query heads."""
        q_weight, k_weight = (None if norm is None else norm.weight for norm in (self.q_norm, self.k_norm))
        count = self.num_heads if num_heads is None else num_heads
        return Projected(heads, count, self.num_kv_heads, q_weight, k_weight, self.eps, rotation)

    def _norm_heads(self, heads: Tensor) -> Tensor:
        """Normalise query and key heads [..., Hq + Hkv, D], where they are."""
        if self.heads_norm is not None:
            return self.heads_norm(heads)
        if self.q_norm is None or self.k_norm is None:
            return heads
        q, k = heads.split((self.num_heads, self.num_kv_heads), -2)
        return torch.cat((self.q_norm(q), self.k_norm(k)), -2)

    def fuse_norms(self) -> None:
        """Norm the heads of queries and keys in one operation, if at all; for inference."""
        if self.q_norm is None or self.k_norm is None:
            return
        q, k = self.q_norm.weight.expand(self.num_heads, -1), self.k_norm.weight.expand(self.num_kv_heads, -1)
        self.heads_norm = LeanRMSNorm(torch.cat((q, k)), self.eps)

    def keys_values_projection(self) -> tuple[Tensor, Tensor | None]:
        """Return the weight [2 * Hkv * D, H] and the bias, if there is one, that make keys and values alone."""
        first, bias = self.num_heads * self.head_dim, self.qkv_proj.bias
        return self.qkv_proj.weight[first:], None if bias is None else bias[first:]

    def split_keys_values(self, kv: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Turn a projection [..., 2 * Hkv * D] into roped keys and values [..., Hkv, D]."""
        k, v = kv.unflatten(-1, (-1, self.head_dim)).chunk(2, -2)
        return rotate(k if self.k_norm is None else self.k_norm(k), *rotation), v


class MLP(nn.Module):
    """A gated map, down(activation(gate(x)) * up(x)); with silu it is SwiGLU."""

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        *,
        bias: bool = False,
        activation: Activation = F.silu,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.gate_up_proj = nn.Linear(hidden_size, 2 * intermediate_size, bias=bias)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [..., H] to [..., H]."""
        return self.down_proj(gated(self.gate_up_proj(x), self.activation))


class DecoderLayer(nn.Module):
    """Pre-norm attention and MLP, each added to the residual stream; `mlp` is another map [..., H] in its place."""

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        eps: float,
        *,
        has_qk_norm: bool = True,
        attention_bias: bool = False,
        mlp_bias: bool = False,
        mlp: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(hidden_size, eps)
        self.self_attn = Attention(
            hidden_size, num_heads, num_kv_heads, head_dim, eps, has_qk_norm=has_qk_norm, bias=attention_bias
        )
        self.post_attention_layernorm = RMSNorm(hidden_size, eps)
        self.mlp = MLP(hidden_size, intermediate_size, bias=mlp_bias) if mlp is None else mlp

    def forward(self, layer: int, x: Tensor, rotation: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        """Advance the residual stream x [..., H] by one layer."""
        mixed = self.self_attn(layer, self.input_layernorm(x), rotation, attend)
        x, normed = add_norm(x, mixed, self.post_attention_layernorm)
        return x + self.mlp(normed)


def scaled(x: Tensor, scale: float) -> Tensor:
    """Multiply embeddings by a scale that is itself rounded to the dtype, as Gemma has it in training."""
    return x * torch.tensor(scale, dtype=x.dtype)


def soft_capped(logits: Tensor, cap: float | None) -> Tensor:
    """Bend logits to stay within a cap, if there is one (Gemma)."""
    return logits if cap is None else torch.tanh(logits / cap) * cap


def fixed_linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """Return a map of these very tensors, weight [N, K] and bias [N], not copies; for inference."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear


def lean_norms(network: nn.Module) -> None:
    """Replace every norm inside `network` by its equal of fewest operations, in place; for inference."""
    for module in list(network.modules()):
        if isinstance(module, Attention):
            module.fuse_norms()
        for name, child in list(module.named_children()):
            if isinstance(child, RMSNorm):
                setattr(module, name, LeanRMSNorm(child.weight, child.eps))


def invariant_activations(network: nn.Module) -> None:
    """Replace every activation inside `network` by its batch-invariant equal, in place."""
    for module in network.modules():
        activation = getattr(module, "activation", None)
        if activation is not None:
            module.activation = INVARIANT[activation]  # type: ignore[assignment]
