"""Activations of gated layers whose every element is the same bits wherever it lies in its tensor.

torch computes silu and gelu with vector instructions, and the last elements of each thread's share one by one, by a
function that rounds otherwise: which elements those are depends on how many rows there are. Its exp and tanh know no
such remainder, and sums, products and quotients round alike everywhere. Contract: the function of F in float32,
rounded once to the dtype of x.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

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
