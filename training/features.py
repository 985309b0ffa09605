"""What a drafter learns from: the frozen target's final states and captured features, made when they are needed."""

import msgspec
import torch
from torch import Tensor

from models.layers import Attend
from models.shape import AttentionShape
from models.target import Target
from training.attention import attend_dense, same_document_mask
from training.packing import Rows


class States(msgspec.Struct, frozen=True):
    """Of a batch of rows: last_hidden [B, S, H], final-normed, and features [B, S, m*H] of the captured layers."""

    last_hidden: Tensor
    features: Tensor


@torch.no_grad()
def target_states(target: Target, rows: Rows, layer_ids: tuple[int, ...]) -> States:
    """Run the target over rows, attention kept in documents; positions are those within the row."""
    positions = torch.arange(rows.tokens.shape[1], device=rows.tokens.device).expand_as(rows.tokens)
    dtype = target.embedding.dtype
    if torch.is_autocast_enabled(rows.tokens.device.type):
        dtype = torch.get_autocast_dtype(rows.tokens.device.type)
    attend = document_attend(rows.documents, target.shape.layers, dtype)
    last_hidden, features = target(rows.tokens, positions, attend, layer_ids)
    assert features is not None
    return States(last_hidden, features)


def document_attend(documents: Tensor, layers: tuple[AttentionShape, ...], dtype: torch.dtype) -> Attend:
    """Attend causally within documents i64 [B, S], by each layer's window and scale."""
    length = documents.shape[1]
    causal = same_document_mask(documents)
    positions = torch.arange(length, device=documents.device)
    masks: dict[int | None, Tensor] = {}
    for layer in layers:
        if layer.window not in masks:
            seen = causal
            if layer.window is not None:
                seen = causal & (positions > positions[:, None] - layer.window)
            mask = torch.zeros(seen.shape, dtype=dtype, device=documents.device)
            masks[layer.window] = mask.masked_fill_(~seen, float("-inf"))

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shape = layers[layer]
        return attend_dense(q, k, v, masks[shape.window], scale=shape.scale)

    return attend
