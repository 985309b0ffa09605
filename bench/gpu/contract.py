"""A kernel's contract as the benchmark sees it: a call, what it must return, and the least work that takes.

Results are compared in float64. A number that is missing or not a number is the largest error there is.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from msgspec import Struct
from torch import Tensor

Outputs = dict[str, Tensor]
ROW_ERROR = "relative L2 error of a row"


class Gap(Struct, frozen=True):
    """How far a result is from what it should be, and how far it may be; `measure` says in which terms."""

    error: float
    tolerance: float
    measure: str

    @property
    def passes(self) -> bool:
        """Tell whether the error is a number, and small enough."""
        return self.error <= self.tolerance


@dataclass(frozen=True, slots=True)
class Call:
    """One call on inputs that are on the device already.

    run         calls the kernel and returns what it gives
    check       compares that with the twin, output by output
    num_bytes   each input read once and each output written once
    operations  multiplications and additions in matrix products; 0 where there are next to none
    """

    run: Callable[[], Outputs]
    check: Callable[[Outputs], dict[str, Gap]]
    num_bytes: float
    operations: float = 0.0


@dataclass(frozen=True, slots=True)
class Case:
    """Inputs of one size for one kernel; `build` makes them on a device.

    module    the file of kernels/ that is called
    is_timed  belongs to the stage that times; all others are only checked. Timed ones may be too large to be checked
    is_checked  belongs to the stage that compares with the twin
    """

    module: str
    name: str
    build: Callable[[torch.device], Call]
    is_checked: bool = True
    is_timed: bool = False

    @property
    def key(self) -> str:
        """The name of the measurement."""
        return f"{self.module}/{self.name}"


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Return |found - wanted| / |wanted| of the worst row, along the last axis; infinity where anything is no number.

    Row by row, because one wrong number among a million others would not show.
    """
    found, wanted = found.double(), wanted.double()
    sizes = wanted.norm(dim=-1)
    errors = (found - wanted).norm(dim=-1) / torch.where(sizes > 0, sizes, 1.0)
    error = errors.max().item() if errors.numel() else 0.0
    return error if math.isfinite(error) else math.inf


def close_to(twin: Callable[[], Outputs], tolerance: float) -> Callable[[Outputs], dict[str, Gap]]:
    """Return a check that every output is within `tolerance` of the twin's, as a share of its size."""

    def check(outputs: Outputs) -> dict[str, Gap]:
        return {
            name: Gap(
                relative_error(outputs[name], wanted.to(outputs[name].device)), tolerance, "relative L2 error of a row"
            )
            for name, wanted in twin().items()
        }

    return check


def equal_to(twin: Callable[[], Outputs]) -> Callable[[Outputs], dict[str, Gap]]:
    """Return a check that every output is exactly the twin's."""

    def check(outputs: Outputs) -> dict[str, Gap]:
        return {
            name: Gap(
                float((outputs[name] != wanted.to(outputs[name].device)).sum().item()), 0.0, "entries that differ"
            )
            for name, wanted in twin().items()
        }

    return check


def num_bytes(*tensors: Tensor | None) -> float:
    """Return the size of tensors."""
    return float(sum(tensor.nbytes for tensor in tensors if tensor is not None))


def generator(device: torch.device, seed: int) -> torch.Generator:
    """Return a source of random inputs on the device."""
    return torch.Generator(device).manual_seed(seed)
