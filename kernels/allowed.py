"""Tokens that a grammar forbids, struck out of logits."""

import torch
from torch import Tensor

from core.errors import ShapeError
from core.tensors import Allowed, LawRows
from kernels.dispatch import takes_triton
from kernels.process_tiles import edit_triton


def disallow(logits: Tensor, allowed: Allowed) -> Tensor:
    """Return logits f32 [N, V] with -inf wherever `allowed` has no bit; rows it does not name are only copied.

    Under bias and penalties -inf stays what it is, so that striking out before them is striking out after them. Each
    row is computed by itself, to the last bit. Raises ShapeError if there are fewer bits than tokens.
    """
    if takes_triton(logits):
        nothing = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
        return edit_triton(logits.contiguous(), None, LawRows(nothing, nothing, None, allowed))
    vocab = logits.shape[1]
    if allowed.bits.shape[1] * 8 < vocab:
        raise ShapeError(f"{vocab} tokens need {-(-vocab // 8)} bytes of bits, got {allowed.bits.shape[1]}")
    place = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=logits.device)
    is_allowed = (allowed.bits[:, :, None] & place).flatten(1)[:, :vocab] != 0  # [M, V]
    return logits.index_copy(0, allowed.rows, logits[allowed.rows].masked_fill(~is_allowed, -torch.inf))
