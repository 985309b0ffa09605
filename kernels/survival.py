"""From a drafter's evidence to the chance that a draft survives verification."""

# Kernel arguments bear no annotations: Triton reads them as code.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls

from functools import lru_cache

import torch
from torch import Tensor

from core.errors import ShapeError
from core.planning import Calibration
from kernels import reference
from kernels.dispatch import takes_triton
from kernels.jit import jit, tl

# Numbers of one program.
CELLS = 256


def survival(evidence: Tensor, lengths: Tensor, calibration: Calibration | None) -> Tensor:
    """Return survivals f32 [B, G] of evidence f32 [B, G], 0 past `lengths` i32 [B] (`reference.survival`)."""
    if takes_triton(evidence):
        return survival_triton(evidence, lengths, calibration)
    return reference.survival(evidence, lengths, calibration)


def survival_triton(evidence: Tensor, lengths: Tensor, calibration: Calibration | None) -> Tensor:
    """Return what `reference.survival` returns, in one launch where the twin has eight. Twin: within 1e-6 relative.

    A calibration is copied to the device when it is first met, and not again.
    """
    batch, width = evidence.shape
    if lengths.shape != (batch,):
        raise ShapeError(f"lengths must be [{batch}], got {list(lengths.shape)}")
    line = None
    if calibration is not None:
        if not len(calibration.slope) == len(calibration.intercept) == width:
            raise ShapeError(f"calibration must have {width} places, got {len(calibration.slope)} slopes")
        line = _line(calibration, evidence.device)
    survivals = torch.empty_like(evidence, memory_format=torch.contiguous_format)
    if not evidence.numel():
        return survivals
    padded = 1 << (width - 1).bit_length()
    rows = max(1, CELLS // padded)
    arguments = evidence.contiguous(), lengths, evidence if line is None else line, survivals, batch, width
    _survival_kernel[(-(-batch // rows),)](*arguments, HAS_LINE=line is not None, ROWS=rows, WIDTH=padded)
    return survivals


@lru_cache(maxsize=64)
def _line(calibration: Calibration, device: torch.device) -> Tensor:
    """Return slopes and intercepts f32 [2, G] on a device."""
    return torch.tensor((calibration.slope, calibration.intercept), dtype=torch.float32, device=device)


@jit(do_not_specialize=("batch",))
def _survival_kernel(
    evidence, lengths, line, survival, batch, width, HAS_LINE: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr
):
    """Write the survivals of a tile of rows."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    place = tl.arange(0, WIDTH)
    is_cell = (row < batch)[:, None] & (place < width)[None, :]
    cell = row[:, None] * width + place[None, :]
    logit = tl.load(evidence + cell, mask=is_cell, other=0.0)
    if HAS_LINE:
        slope = tl.load(line + place, mask=place < width, other=0.0)
        intercept = tl.load(line + width + place, mask=place < width, other=0.0)
        logit = logit * slope[None, :] + intercept[None, :]
    chance = tl.associative_scan(tl.sigmoid(logit), 1, _times)
    length = tl.load(lengths + row, mask=row < batch, other=0)
    tl.store(survival + cell, tl.where(place[None, :] < length[:, None], chance, 0.0), mask=is_cell)


@jit()
def _times(left, right):
    return left * right
