"""Cases of what a layer does between its products: norms of rows and of heads."""

from functools import partial

import torch
from torch.nn import functional as F

from bench.gpu.contract import Call, Case, close_to, generator, num_bytes
from kernels.norms import LeanRMSNorm

EPS = 1e-6
# Rounded once to bfloat16.
TOLERANCE = 4e-3


def cases(is_dry_run: bool) -> list[Case]:
    """Return the cases of norms."""
    hidden = 256 if is_dry_run else 4096
    sizes = [(1, hidden), (9, hidden)] if is_dry_run else [(1, hidden), (9, hidden), (64, hidden), (512, hidden)]
    found = []
    for rows, size in sizes:
        is_largest = (rows, size) == sizes[-1]
        found.append(Case("norms", f"rows/N{rows}", partial(_norm, (rows, size), (size,)), is_timed=is_largest))
        heads = partial(_norm, (rows, 40, 128), (40, 128))
        found.append(Case("norms", f"heads/N{rows}", heads, is_timed=is_largest))
    return found


def _norm(shape: tuple[int, ...], weights: tuple[int, ...], device: torch.device) -> Call:
    rng = generator(device, 0)
    x = torch.randn(shape, generator=rng, device=device, dtype=torch.bfloat16)
    weight = torch.rand(weights, generator=rng, device=device, dtype=torch.bfloat16) + 0.5
    norm = LeanRMSNorm(weight, EPS).to(device)
    return Call(
        lambda: {"out": norm(x)},
        close_to(lambda: {"out": F.rms_norm(x.double(), shape[-1:], None, EPS) * weight.double()}, TOLERANCE),
        num_bytes(x, x, weight),
    )
