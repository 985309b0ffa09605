"""Gated layers: an activation of one half of a projection times the other half; one Triton kernel on a GPU.

The invariant activations are those whose every element is the same bits wherever it lies in its tensor. torch computes
silu and gelu with vector instructions, and the last elements of each thread's share one by one, by a function that
rounds otherwise: which elements those are depends on how many rows there are. Its exp and tanh know no such remainder,
and sums, products and quotients round alike everywhere. Contract: the function of F in float32, rounded once to the
dtype of x.
"""

# Kernel arguments bear no annotations: Triton reads them as code.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from kernels.dispatch import infers_in_triton
from kernels.jit import jit, tl

Activation = Callable[[Tensor], Tensor]


def gelu_tanh(x: Tensor) -> Tensor:
    """Return gelu(x) in the approximation by tanh (Hendrycks and Gimpel 2016, section 2)."""
    return F.gelu(x, approximate="tanh")


def invariant_silu(x: Tensor) -> Tensor:
    """Return x / (1 + exp(-x))."""
    wide = x.float()
    return (wide / (torch.exp(-wide) + 1)).to(x.dtype)


def invariant_gelu_tanh(x: Tensor) -> Tensor:
    """Return x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""
    wide = x.float()
    inner = (wide * wide * wide * 0.044715 + wide) * (2 / torch.pi) ** 0.5
    return (wide * 0.5 * (torch.tanh(inner) + 1)).to(x.dtype)


def invariant_sigmoid(x: Tensor) -> Tensor:
    """Return 1 / (1 + exp(-x))."""
    return (1 / (torch.exp(-x.float()) + 1)).to(x.dtype)


INVARIANT: dict[Activation, Activation] = {F.silu: invariant_silu, gelu_tanh: invariant_gelu_tanh}
# What the kernel knows. Its elements stand by themselves, so it serves both numerics.
KINDS = {F.silu: "silu", invariant_silu: "silu", gelu_tanh: "gelu_tanh", invariant_gelu_tanh: "gelu_tanh"}
# Elements of one program.
TILE = 1024


def gated(gate_up: Tensor, activation: Activation) -> Tensor:
    """Return activation(gate) * up [..., I] from a projection [..., 2 * I], gate first (SwiGLU: Shazeer 2020)."""
    if infers_in_triton(gate_up):
        return gated_triton(gate_up, KINDS[activation])
    gate, up = gate_up.chunk(2, -1)
    return activation(gate) * up


def gated_triton(gate_up: Tensor, kind: str) -> Tensor:
    """Return what `gated` returns, in float32 and rounded once; kind is one of KINDS' values.

    Twin, whose activation is rounded too: two units in the last place of the dtype.
    """
    rows = gate_up.contiguous()
    width = rows.shape[-1] // 2
    out = torch.empty((*rows.shape[:-1], width), dtype=rows.dtype, device=rows.device)
    if out.numel():
        grid = (out.numel() // width, -(-width // TILE))
        _gated_kernel[grid](rows, out, width, KIND=kind, TILE=TILE)
    return out


@jit()
def _gated_kernel(gate_up, out, width, KIND: tl.constexpr, TILE: tl.constexpr):
    """Compute a tile of one row."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * TILE + tl.arange(0, TILE)
    is_place = place < width
    gate = tl.load(gate_up + row * 2 * width + place, mask=is_place, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + place, mask=is_place, other=0.0).to(tl.float32)
    if KIND == "silu":
        active = gate * tl.sigmoid(gate)
    else:
        # (1 + tanh(z)) / 2 = sigmoid(2 z), with z = sqrt(2 / pi) (x + 0.044715 x^3).
        active = gate * tl.sigmoid(1.5957691216057308 * (gate + 0.044715 * gate * gate * gate))
    tl.store(out + row * width + place, (active * up).to(out.dtype.element_ty), mask=is_place)
