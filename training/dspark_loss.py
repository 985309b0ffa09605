"""DSpark's loss: cross entropy, total variation against the target's distribution, and the confidence head's error.

L = 0.1 CE + 0.9 sum|q - p| + 1.0 BCE(confidence, 1 - sum|q - p| / 2), each a mean weighted by exp(-(k-1)/4) over the
supervised drafts k = 1..K. DFlash is trained by cross entropy alone. Source: arXiv 2607.05147 section 3.4, with the
constants of DeepSpec's code.
"""

import msgspec
import torch
from torch import Tensor
from torch.nn import functional as F

from models.dflash_net import DFlashNet
from models.target import Target
from training.blocks import Blocks
from training.chunks import chunk_rows, over_chunks
from training.losses import Losses, Normaliser, own_weight

TERMS = ("cross_entropy", "distance", "confidence")


class LossWeights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Factors of the three terms, and how fast later drafts lose weight."""

    cross_entropy: float = 0.1
    total_variation: float = 0.9
    confidence: float = 1.0
    decay: float = 4.0

    @property
    def needs_target(self) -> bool:
        """Tell whether the target's distributions are needed, not its tokens alone."""
        return self.total_variation > 0 or self.confidence > 0


DFLASH_WEIGHTS = LossWeights(cross_entropy=1.0, total_variation=0.0, confidence=0.0)


def draft_logits(network: DFlashNet, target: Target, hidden: Tensor, previous: Tensor) -> Tensor:
    """Return logits f32 [..., K, V] of drafts given the true previous tokens [..., K], by the target's head."""
    logits = target.logits(hidden)
    if network.markov_head is None:
        return logits
    # Where the target caps its logits, the bias comes on top.
    return logits + network.markov_head(previous, hidden)


def target_states(last_hidden: Tensor, blocks: Blocks) -> Tensor:
    """Return the target's final-normed states [B, N, K, H] that its distributions over the labels come from."""
    size = blocks.labels.shape[-1]
    columns = torch.arange(size, device=last_hidden.device)
    rows = (blocks.anchors[..., None] + columns).clamp(max=last_hidden.shape[1] - 1).flatten(1)
    states = last_hidden.gather(1, rows[..., None].expand(-1, -1, last_hidden.shape[-1]))
    return states.view(*blocks.labels.shape, -1)


def dspark_loss(
    network: DFlashNet,
    target: Target,
    hidden: Tensor,
    last_hidden: Tensor,
    blocks: Blocks,
    weights: LossWeights,
    normaliser: Normaliser = own_weight,
) -> Losses:
    """Compute the loss of block states hidden [B, N, K, H] against the target's final states [B, S, H]."""

    def compute(hidden: Tensor, states: Tensor, labels: Tensor, previous: Tensor) -> tuple[Tensor]:
        return (_terms(network, target, weights, hidden, states, labels, previous),)

    inputs = (hidden, target_states(last_hidden, blocks), blocks.labels, blocks.previous)
    size = chunk_rows(blocks.labels.shape[-1], target.shape.vocab_size)
    (terms,) = over_chunks(compute, tuple(one.flatten(0, 1) for one in inputs), size)
    slots = torch.arange(blocks.labels.shape[-1], device=hidden.device)
    decay = (torch.exp(-slots / weights.decay) * blocks.mask).flatten(0, 1)
    means = (decay[..., None] * terms).sum((0, 1)) / normaliser(decay.sum())
    factors = means.new_tensor([weights.cross_entropy, weights.total_variation, weights.confidence])
    return Losses((means * factors).sum(), means, TERMS)


def _terms(
    network: DFlashNet,
    target: Target,
    weights: LossWeights,
    hidden: Tensor,
    states: Tensor,
    labels: Tensor,
    previous: Tensor,
) -> Tensor:
    """Return the three terms f32 [R, K, 3] of R blocks."""
    drafts = draft_logits(network, target, hidden, previous).log_softmax(-1)
    cross_entropy = -drafts.gather(-1, labels[..., None]).squeeze(-1)
    distance = confidence = torch.zeros_like(cross_entropy)
    if weights.needs_target:
        with torch.no_grad():
            wanted = target.logits(states).softmax(-1)
        distance = (drafts.exp() - wanted).abs().sum(-1)
    if network.config.enable_confidence_head and weights.confidence > 0:
        with torch.autocast(hidden.device.type, enabled=False):
            scores = network.confidence(hidden.float(), previous)
        acceptance = (1.0 - 0.5 * distance.detach()).clamp(0.0, 1.0)
        confidence = F.binary_cross_entropy_with_logits(scores, acceptance, reduction="none")
    return torch.stack((cross_entropy, distance, confidence), -1)
