"""DSpark's loss: cross entropy, total variation against the target's distribution, and the confidence head's error.

L = 0.1 CE + 0.9 sum|q - p| + 1.0 BCE(confidence, 1 - sum|q - p| / 2), each a mean weighted by exp(-(k-1)/4) over the
supervised drafts k = 1..G. Source: arXiv 2607.05147 section 3.4, with the constants of DeepSpec's code.
"""

import msgspec
import torch
from torch import Tensor
from torch.nn import functional as F

from models.dflash_net import DFlashNet
from training.blocks import Blocks

EPS = 1e-6


class LossWeights(msgspec.Struct, frozen=True):
    """Factors of the three terms, and how fast later drafts lose weight."""

    cross_entropy: float = 0.1
    total_variation: float = 0.9
    confidence: float = 1.0
    decay: float = 4.0


class BlockLosses(msgspec.Struct, frozen=True):
    """The weighted total and its three terms (scalars), with the acceptance [B, N, G] each draft would have."""

    total: Tensor
    terms: Tensor
    acceptance: Tensor


def draft_logits(network: DFlashNet, head: Tensor, hidden: Tensor, previous: Tensor) -> Tensor:
    """Return logits f32 [..., G, V] of drafts given the true previous tokens [..., G]; head [V, H] is the target's."""
    logits = F.linear(hidden, head)
    if network.markov_head is not None:
        logits = logits + network.markov_head(previous, hidden)
    return logits.float()


def target_logits(head: Tensor, last_hidden: Tensor, blocks: Blocks) -> Tensor:
    """Return the target's logits f32 [B, N, G, V] of the labels; last_hidden [B, S, H] is final-normed."""
    size = blocks.labels.shape[-1]
    rows = (blocks.anchors[..., None] + torch.arange(size)).clamp(max=last_hidden.shape[1] - 1).flatten(1)
    states = last_hidden.gather(1, rows[..., None].expand(-1, -1, last_hidden.shape[-1]))
    return F.linear(states, head).float().view(*blocks.labels.shape, -1)


def dspark_loss(
    network: DFlashNet, head: Tensor, hidden: Tensor, last_hidden: Tensor, blocks: Blocks, weights: LossWeights
) -> BlockLosses:
    """Compute the loss of block states hidden [B, N, G, H] against the target's final states [B, S, H]."""
    logits = draft_logits(network, head, hidden, blocks.previous)
    with torch.no_grad():
        target = target_logits(head, last_hidden, blocks).softmax(-1)
    drafts = logits.log_softmax(-1)
    cross_entropy = -drafts.gather(-1, blocks.labels[..., None]).squeeze(-1)
    distance = (drafts.exp() - target).abs().sum(-1)
    acceptance = (1.0 - 0.5 * distance).detach()
    confidence = torch.zeros_like(distance)
    if network.config.enable_confidence_head:
        with torch.autocast("cpu", enabled=False):
            scores = network.confidence(hidden.float(), blocks.previous)
        confidence = F.binary_cross_entropy_with_logits(scores, acceptance.clamp(0.0, 1.0), reduction="none")
    decay = torch.exp(-torch.arange(blocks.labels.shape[-1]) / weights.decay) * blocks.mask
    terms = torch.stack([(decay * term).sum() for term in (cross_entropy, distance, confidence)]) / (decay.sum() + EPS)
    factors = torch.tensor([weights.cross_entropy, weights.total_variation, weights.confidence])
    return BlockLosses((terms * factors).sum(), terms, acceptance)
