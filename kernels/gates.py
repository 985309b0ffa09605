"""sigmoid and tanh whose every row is the same bits whatever else is in the batch.

torch computes exponentials in vectors and the few elements after the last whole vector one by one, by another formula.
Which elements those are depends on how many rows there are. Here every row is padded to whole vectors first.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

# Elements that torch takes at a time: two of the widest vectors, of 16 float32 or 32 bfloat16.
VECTOR = 64


def sigmoid(x: Tensor) -> Tensor:
    """Return 1 / (1 + exp(-x)) of x [..., K]."""
    return _by_whole_vectors(torch.sigmoid, x)


def tanh(x: Tensor) -> Tensor:
    """Return the hyperbolic tangent of x [..., K]."""
    return _by_whole_vectors(torch.tanh, x)


def _by_whole_vectors(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    size = x.shape[-1]
    return function(F.pad(x, (0, -size % VECTOR)).contiguous())[..., :size]
