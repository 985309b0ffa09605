"""Dense attention for training: the `attend` callables that the networks of models/ are given."""

import torch
from torch import Tensor
from torch.nn import functional as F

from models.layers import Attend


def same_document_mask(documents: Tensor) -> Tensor:
    """Return bool [B, 1, S, S]: row s may see column t <= s of its own document; documents i64 [B, S]."""
    length = documents.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=documents.device).tril()
    return (causal & (documents[:, :, None] == documents[:, None, :])).unsqueeze(1)


def causal_attend(mask: Tensor | None = None) -> Attend:
    """Attend over dense [B, S, heads, D] rows, causally or under a mask [B, 1, S, S] (bool or additive)."""

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # noqa: ARG001, the protocol has it
        return attend_dense(q, k, v, mask, is_causal=mask is None)

    return attend


def attend_dense(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, is_causal: bool = False, scale: float | None = None
) -> Tensor:
    """Grouped-query attention of q [B, S, Hq, D] over k and v [B, T, Hkv, D]; returns [B, S, Hq, D]."""
    groups = q.shape[-2] // k.shape[-2]
    if q.shape[1] == 1:
        # One query: its heads of a group are queries of one key head, which saves copying the keys.
        folded = q.view(q.shape[0], k.shape[-2], groups, q.shape[-1])
        return F.scaled_dot_product_attention(
            folded, k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask, scale=scale
        ).view(q.shape)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal, scale=scale).transpose(1, 2)
