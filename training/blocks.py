"""The drafter's training forward: many blocks per sequence in one pass, each seeing only what it would see in service.

Block n starts at anchor i_n: its G slots (the anchor's token, then masks) attend to context rows t < i_n of the same
document and to each other, by the layer's window and order where it has one. Source: DSpark (arXiv 2607.05147)
section 3; DeepSpec's training forward.
"""

import msgspec
import torch
from torch import Tensor
from torch.nn import functional as F

from models.dflash_net import DFlashNet
from models.layers import Attend
from models.shape import AttentionShape
from models.target import Target
from training.attention import attend_dense

# Blocks that attend at once: the more, the more of the products is masked, the fewer, the smaller the products.
CHUNK_BLOCKS = 64


class Blocks(msgspec.Struct, frozen=True):
    """Where blocks start and what they should predict.

    anchors i64 [B, N] and kept bool [B, N]; labels i64 [B, N, K] are the K tokens after the anchor, previous
    i64 [B, N, K] the token before each label; mask f32 [B, N, K] is 1 for the supervised prefix of every block.
    """

    anchors: Tensor
    kept: Tensor
    labels: Tensor
    previous: Tensor
    mask: Tensor


def sample_anchors(loss_mask: Tensor, num_anchors: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw anchors without replacement where a token and the next are supervised, loss_mask [B, S].

    Returns ascending anchors i64 [B, N] and kept bool [B, N]; missing ones, as of rows shorter than N, come last with
    index 0.
    """
    valid = F.pad((loss_mask[:, :-1] > 0) & (loss_mask[:, 1:] > 0), (0, 1))
    # Drawn on the CPU whatever the device, so that a seed gives the same anchors everywhere.
    order = torch.rand(valid.shape, generator=generator).to(valid.device).masked_fill(~valid, -1.0)
    chosen = order.topk(min(num_anchors, valid.shape[1]), dim=1).indices
    kept = valid.gather(1, chosen)
    anchors, rank = chosen.masked_fill(~kept, valid.shape[1]).sort(1)
    kept = kept.gather(1, rank)
    missing = (0, num_anchors - chosen.shape[1])
    return F.pad(anchors.masked_fill(~kept, 0), missing), F.pad(kept, missing)


def make_blocks(
    tokens: Tensor, documents: Tensor, loss_mask: Tensor, anchors: Tensor, kept: Tensor, size: int
) -> Blocks:
    """Look up labels and mask of blocks of `size` drafts; a block ends at the end, its document or a hole."""
    length = tokens.shape[1]
    indices = anchors[..., None] + torch.arange(1, size + 1, device=tokens.device)
    inside = indices.clamp(max=length - 1).flatten(1)
    labels = tokens.gather(1, inside).view(indices.shape)
    same = documents.gather(1, inside).view(indices.shape) == documents.gather(1, anchors)[..., None]
    supervised = loss_mask.gather(1, inside).view(indices.shape) > 0
    mask = (kept[..., None] & (indices < length) & same & supervised).float().cumprod(-1)
    previous = torch.cat((tokens.gather(1, anchors)[..., None], labels[..., :-1]), -1)
    return Blocks(anchors, kept, labels, previous, mask)


def block_mask(
    anchors: Tensor, documents: Tensor, size: int, *, window: int | None = None, is_causal: bool = False
) -> Tensor:
    """Return bool [B, 1, N*G, S + N*G]: what every slot of blocks at `anchors` may see of the context and of slots."""
    num_anchors, device = anchors.shape[1], documents.device
    slots = torch.arange(size, device=device)
    columns = torch.arange(documents.shape[1], device=device)
    own = documents.gather(1, anchors)
    context = (columns < anchors[..., None]) & (documents[:, None] == own[..., None])
    context = context[:, :, None].expand(-1, -1, size, -1)  # [B, N, G, S]
    beside = torch.ones(size, size, dtype=torch.bool, device=device)
    if window is not None:
        context = context & (columns > (anchors[..., None] + slots)[..., None] - window)
        beside = beside & (slots > slots[:, None] - window)
    if is_causal:
        beside = beside.tril()
    numbers = torch.arange(num_anchors, device=device)
    blocks = (numbers[:, None] == numbers)[:, None, :, None] & beside[None, :, None]  # [N, G, N, G]
    blocks = blocks.flatten(2).expand(len(anchors), -1, -1, -1)
    return torch.cat((context, blocks), -1).flatten(1, 2).unsqueeze(1)


def run_blocks(
    network: DFlashNet, target: Target, features: Tensor, tokens: Tensor, documents: Tensor, blocks: Blocks
) -> Tensor:
    """Return the final-normed states [B, N, K, H] of the slots that draft, given the target's features [B, S, m*H]."""
    config, (batch, num_anchors, _) = network.config, blocks.labels.shape
    positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    context = network.context_keys_values(network.context(features), positions)
    ids = torch.full((batch, num_anchors, config.block_size), config.mask_token_id, device=tokens.device)
    first = torch.where(blocks.kept, blocks.previous[..., 0], config.mask_token_id)
    ids = torch.cat((first[..., None], ids[..., 1:]), -1).flatten(1)
    slots = (blocks.anchors[..., None] + torch.arange(config.block_size, device=tokens.device)).flatten(1)
    attend = block_attend(context, blocks.anchors, documents, config.attention, config.block_size)
    hidden = network.block(target.embed(ids), slots, attend).view(batch, num_anchors, config.block_size, -1)
    # Where slots predict the tokens at their own positions, the anchor's predicts what is known.
    return hidden if config.sample_from_anchor else hidden[:, :, 1:]


def block_attend(
    context: list[tuple[Tensor, Tensor]],
    anchors: Tensor,
    documents: Tensor,
    layers: tuple[AttentionShape, ...],
    size: int,
) -> Attend:
    """Attend from slots to the layer's context rows followed by the slots of the blocks in one chunk."""
    dtype, chunks = context[0][0].dtype, anchors.split(CHUNK_BLOCKS, 1)
    kinds = {(layer.window, layer.is_causal) for layer in layers}
    masks = {kind: [chunk_mask(part, documents, size, kind, dtype) for part in chunks] for kind in kinds}

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = context[layer]
        shape, rows = layers[layer], CHUNK_BLOCKS * size
        own = zip(*(one.to(dtype).split(rows, 1) for one in (q, k, v)), strict=True)
        outputs = [
            attend_dense(q, torch.cat((keys, k), 1), torch.cat((values, v), 1), mask, scale=shape.scale)
            for (q, k, v), mask in zip(own, masks[shape.window, shape.is_causal], strict=True)
        ]
        return torch.cat(outputs, 1)

    return attend


def chunk_mask(
    anchors: Tensor, documents: Tensor, size: int, kind: tuple[int | None, bool], dtype: torch.dtype
) -> Tensor:
    """Return `block_mask` of one kind of layer, (window, is_causal), to be added to scores."""
    seen = block_mask(anchors, documents, size, window=kind[0], is_causal=kind[1])
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, float("-inf"))
