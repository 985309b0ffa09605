"""x / sqrt(mean(x^2) + eps) * weight, alone and after a residual sum: one Triton kernel on a GPU, twins elsewhere.

LeanRMSNorm is for inference on the CPU, in the fewest passes torch has for it: F.rms_norm is a chain of eight
operations there, which for the few rows of a decode step cost more than the numbers. There sqrt(D) is put into the
weight: x / hypot(|x|, sqrt(D eps)) * (weight sqrt(D)). The fewest rows get a single fused operation: the mean of (x,
-x) is 0 and its variance mean(x^2), so half of its layer norm is the RMS norm. Contract: F.rms_norm in float32, rounded
once to the dtype of x.
"""

# Kernel arguments bear no annotations: Triton reads them as code.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.dispatch import infers_in_triton
from kernels.jit import jit, tl

# Numbers up to which doubling the row costs less than a chain of operations: 16 rows of 256.
FEW = 4096


class Norm(Protocol):
    """An RMSNorm over the last axis."""

    @property
    def weight(self) -> Tensor:
        """What the normalised row is multiplied by, [D]."""
        ...

    @property
    def eps(self) -> float:
        """What is added to the mean square."""
        ...

    def __call__(self, x: Tensor, /) -> Tensor:
        """Normalise x [..., D]."""
        ...


class LeanRMSNorm(nn.Module):
    """RMSNorm over the last axis; the weight [..., D] broadcasts against x and must not change."""

    floor: Tensor
    scaled: Tensor
    doubled: Tensor

    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = weight, eps
        size = weight.shape[-1]
        self.register_buffer("floor", torch.tensor((size * eps) ** 0.5), persistent=False)
        self.register_buffer("doubled", torch.cat((weight, weight), -1).detach(), persistent=False)
        self.register_buffer("scaled", weight.detach().float() * size**0.5, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [..., D]."""
        if infers_in_triton(x):
            return rms_norm_triton(x, self.weight, self.eps)
        if self.weight.ndim == 1 and x.numel() <= FEW:
            both, size = torch.cat((x, -x), -1), x.shape[-1]
            return torch.layer_norm(both, (2 * size,), self.doubled, None, self.eps)[..., :size]
        wide = x.float()
        norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        return wide.div(torch.hypot(norm, self.floor)).mul_(self.scaled).to(x.dtype)

    # Norms are the most frequent modules of a step, and a module's hooks, which nobody hangs on these, cost more than
    # a small operation.
    __call__ = forward


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise x [..., D], times a weight [D]: F.rms_norm, on a GPU and without gradients in one kernel."""
    if infers_in_triton(x):
        return rms_norm_triton(x, weight, eps)
    return F.rms_norm(x, weight.shape, weight, eps)


def add_norm(x: Tensor, delta: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """Return x + delta, rounded to the dtype, and its norm; both [..., D]."""
    if infers_in_triton(x):
        return add_norm_triton(x, delta, norm.weight, norm.eps)
    x = x + delta
    return x, norm(x)


def rms_norm_triton(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return x / sqrt(mean(x^2) + eps) * weight for x [..., D] and a weight [D], or [heads, D] for x [..., heads, D].

    One program per row of D; the row is read once. Twin: one unit in the last place of the dtype.
    """
    return _norm(x, None, weight, eps)[1]


def add_norm_triton(x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return what `add_norm` returns in one pass, of which the norm reads the rounded sum, as the twin does."""
    return _norm(x, delta, weight, eps)


def _norm(x: Tensor, delta: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    size = x.shape[-1]
    # Heads may be a part of wider rows: rows of D are then further apart than D.
    rows = x if x.is_contiguous() else x.contiguous()
    added = None if delta is None else delta.contiguous()
    weight = weight.contiguous()
    out = torch.empty(rows.shape, dtype=x.dtype, device=x.device)
    total = rows if added is None else torch.empty(rows.shape, dtype=x.dtype, device=x.device)
    if not rows.numel():
        return total, out
    _norm_kernel[(rows.numel() // size,)](
        rows,
        rows if added is None else added,
        weight,
        total,
        out,
        weight.numel() // size,
        eps,
        HAS_DELTA=added is not None,
        **norm_sizes(size),
    )
    return total, out


def norm_sizes(size: int) -> dict[str, int]:
    """Return the constants and the number of warps for rows of `size`: eight numbers a thread, or more."""
    padded = 1 << (size - 1).bit_length()
    return {"DIM": size, "DIM_PADDED": padded, "num_warps": min(max(padded // 256, 1), 16)}


@jit(do_not_specialize=("num_weights",))
def _norm_kernel(
    x,
    delta,
    weight,
    total,
    out,
    num_weights,
    eps,
    HAS_DELTA: tl.constexpr,
    DIM: tl.constexpr,
    DIM_PADDED: tl.constexpr,
):
    """Norm one row of DIM; num_weights rows of weights take turns."""
    row = tl.program_id(0).to(tl.int64)
    dim = tl.arange(0, DIM_PADDED)
    is_dim = dim < DIM
    value = tl.load(x + row * DIM + dim, mask=is_dim, other=0.0).to(tl.float32)
    if HAS_DELTA:
        value += tl.load(delta + row * DIM + dim, mask=is_dim, other=0.0).to(tl.float32)
        rounded = value.to(total.dtype.element_ty)
        tl.store(total + row * DIM + dim, rounded, mask=is_dim)
        value = rounded.to(tl.float32)
    inverse = tl.rsqrt(tl.sum(value * value, 0) / DIM + eps)
    factor = tl.load(weight + row % num_weights * DIM + dim, mask=is_dim, other=0.0).to(tl.float32)
    tl.store(out + row * DIM + dim, (value * inverse * factor).to(out.dtype.element_ty), mask=is_dim)
