"""The drafter's training forward: many blocks per sequence in one pass, each seeing only what it would see in service.

Block n starts at anchor i_n: its G slots (the anchor's token, then masks) attend to context rows t < i_n of the same
document and to each other, without order. Source: DSpark (arXiv 2607.05147) section 3; DeepSpec's training forward.
"""

import msgspec
import torch
from torch import Tensor
from torch.nn import functional as F

from models.dflash_net import DFlashNet
from models.layers import Attend
from training.attention import attend_dense


class Blocks(msgspec.Struct, frozen=True):
    """Where blocks start and what they should predict.

    anchors i64 [B, N] and kept bool [B, N]; labels i64 [B, N, G] are the G tokens after the anchor, previous
    i64 [B, N, G] the token before each label; mask f32 [B, N, G] is 1 for the supervised prefix of every block.
    """

    anchors: Tensor
    kept: Tensor
    labels: Tensor
    previous: Tensor
    mask: Tensor


def sample_anchors(loss_mask: Tensor, num_anchors: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw anchors without replacement where a token and the next are supervised, loss_mask [B, S].

    Returns ascending anchors i64 [B, N] and kept bool [B, N]; missing ones come last with index 0.
    """
    valid = F.pad((loss_mask[:, :-1] > 0) & (loss_mask[:, 1:] > 0), (0, 1))
    order = torch.rand(valid.shape, generator=generator).masked_fill(~valid, -1.0)
    chosen = order.topk(num_anchors, dim=1).indices
    kept = valid.gather(1, chosen)
    anchors, rank = chosen.masked_fill(~kept, valid.shape[1]).sort(1)
    kept = kept.gather(1, rank)
    return anchors.masked_fill(~kept, 0), kept


def make_blocks(
    tokens: Tensor, documents: Tensor, loss_mask: Tensor, anchors: Tensor, kept: Tensor, size: int
) -> Blocks:
    """Look up labels and mask of blocks of `size` slots; a block ends at the end, its document or a hole."""
    length = tokens.shape[1]
    indices = anchors[..., None] + torch.arange(1, size + 1)
    inside = indices.clamp(max=length - 1).flatten(1)
    labels = tokens.gather(1, inside).view(indices.shape)
    same = documents.gather(1, inside).view(indices.shape) == documents.gather(1, anchors)[..., None]
    supervised = loss_mask.gather(1, inside).view(indices.shape) > 0
    mask = (kept[..., None] & (indices < length) & same & supervised).float().cumprod(-1)
    previous = torch.cat((tokens.gather(1, anchors)[..., None], labels[..., :-1]), -1)
    return Blocks(anchors, kept, labels, previous, mask)


def block_mask(blocks: Blocks, documents: Tensor) -> Tensor:
    """Return bool [B, 1, N*G, S + N*G]: what every slot may see of the context and of all slots."""
    batch, num_anchors, size = blocks.labels.shape
    columns = torch.arange(documents.shape[1])
    own = documents.gather(1, blocks.anchors)
    context = (columns < blocks.anchors[..., None]) & (documents[:, None] == own[..., None])  # [B, N, S]
    numbers = torch.arange(num_anchors).repeat_interleave(size)
    slots = (numbers[:, None] == numbers).expand(batch, -1, -1)
    return torch.cat((context.repeat_interleave(size, 1), slots), -1).unsqueeze(1)


def run_blocks(
    network: DFlashNet, embedding: Tensor, features: Tensor, tokens: Tensor, documents: Tensor, blocks: Blocks
) -> Tensor:
    """Return final-normed block states [B, N, G, H] given features [B, S, m*H] and embedding [V, H]."""
    batch, num_anchors, size = blocks.labels.shape
    positions = torch.arange(tokens.shape[1]).expand_as(tokens)
    context = network.context_keys_values(network.context(features), positions)
    ids = torch.full(blocks.labels.shape, network.config.mask_token_id)
    first = torch.where(blocks.kept, blocks.previous[..., 0], network.config.mask_token_id)
    ids = torch.cat((first[..., None], ids[..., 1:]), -1).flatten(1)
    slots = (blocks.anchors[..., None] + torch.arange(size)).flatten(1)
    seen = block_mask(blocks, documents)
    mask = torch.zeros(seen.shape, dtype=context[0][0].dtype).masked_fill(~seen, float("-inf"))
    hidden = network.block(F.embedding(ids, embedding), slots, block_attend(context, mask))
    return hidden.view(batch, num_anchors, size, -1)


def block_attend(context: list[tuple[Tensor, Tensor]], mask: Tensor) -> Attend:
    """Attend from slots to the layer's context rows followed by the slots themselves."""

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = context[layer]
        dtype = keys.dtype
        return attend_dense(q.to(dtype), torch.cat((keys, k.to(dtype)), 1), torch.cat((values, v.to(dtype)), 1), mask)

    return attend
