"""Logit processing, one function for both sides: the target's law p and the drafter's law q."""

from torch import Tensor

from core.tensors import LawRows, Processing
from kernels import reference


def process(logits: Tensor, processing: Processing, rows: LawRows) -> Tensor:
    """Turn raw logits f32 [N, V] into those of the law each row's request asked for (`reference.process`).

    No Triton kernel serves this yet: on CUDA the torch twin runs too, and waits for the device where rows are edited,
    greedy or truncated. Plain batches cost nothing.
    """
    return reference.process(logits, processing, rows)
