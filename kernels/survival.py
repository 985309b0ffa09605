"""From a drafter's evidence to the chance that a draft survives verification."""

from torch import Tensor

from core.types import Calibration
from kernels import reference


def survival(evidence: Tensor, lengths: Tensor, calibration: Calibration | None) -> Tensor:
    """Return survivals f32 [B, G] of evidence f32 [B, G], 0 past `lengths` i32 [B] (`reference.survival`).

    The torch twin serves every device: these are a few elementwise operations on B x G numbers.
    """
    return reference.survival(evidence, lengths, calibration)
