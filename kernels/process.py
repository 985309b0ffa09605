"""Logit processing, one function for both sides: the target's law p and the drafter's law q."""

from torch import Tensor

from core.tensors import LawRows, Processing
from kernels import reference
from kernels.dispatch import takes_triton
from kernels.process_tiles import process_triton


def process(logits: Tensor, processing: Processing, rows: LawRows) -> Tensor:
    """Turn raw logits f32 [N, V] into those of the law each row's request asked for (`reference.process`).

    A GPU has its own body, which reads nothing back (kernels/process_tiles.py). Plain batches cost nothing.
    """
    if takes_triton(logits):
        return process_triton(logits, processing, rows)
    return reference.process(logits, processing, rows)
