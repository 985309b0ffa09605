"""What every drafter's loss comes to, and how sums over supervised slots become means, in one process or in many."""

from collections.abc import Callable

import msgspec
from torch import Tensor

EPS = 1e-6

# From the sum of this process' weights to what its sums are divided by.
Normaliser = Callable[[Tensor], Tensor]


class Losses(msgspec.Struct, frozen=True):
    """The total to minimise and the terms it is made of, scalars [T] by `names`."""

    total: Tensor
    terms: Tensor
    names: tuple[str, ...]


def own_weight(weight: Tensor) -> Tensor:
    """Divide by the weight itself; a batch without supervised slots gives 0."""
    return weight + EPS
