"""DFlash: one parallel pass of a small network over the target's features drafts a whole block (DeepSpec convention).

Committed rows become context keys and values once (`extend`); a proposal runs the anchor and G - 1 masks through the
draft layers, bidirectional inside the block, and slot j predicts the token at anchor + j + 1. How slots become tokens
is `_choose`, which DSpark replaces.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from core.errors import CheckpointError
from core.tensors import Commit, Draft, DraftAsk
from core.types import Calibration
from drafters.base import DrafterSpec
from drafters.draws import SlotDraws
from drafters.margin import margin_evidence
from kernels.attention import cache_rows
from models.dflash_net import DFlashNet
from models.paged import PagedAttention
from models.target import Target


class DFlash:
    """Drafts G tokens in parallel; embeddings and output head are the target's own tensors.

    calibration  what the evidence means, from the checkpoint; None if it does not say
    """

    def __init__(self, name: str, network: DFlashNet, target: Target, calibration: Calibration | None = None) -> None:
        shape = network.config.backbone
        beside = target.shape
        if shape.hidden_size != beside.hidden_size or shape.vocab_size != beside.vocab_size:
            raise CheckpointError(
                f"drafter {name!r} was made for a target of hidden size {shape.hidden_size} and vocabulary "
                f"{shape.vocab_size}; this target has {beside.hidden_size} and {beside.vocab_size}"
            )
        if network.config.num_target_layers != len(beside.layers):
            raise CheckpointError(
                f"drafter {name!r} was made for a target of {network.config.num_target_layers} layers; "
                f"this one has {len(beside.layers)}"
            )
        self.network, self.target = network, target
        self._attention = PagedAttention(network.config.attention, network.numerics)
        self.spec = DrafterSpec(
            name=name,
            max_drafts=network.config.block_size,
            feature_layers=network.config.target_layer_ids,
            kv_layers=tuple(layer.kv_shape for layer in network.config.attention),
            calibration=calibration,
        )

    def open(self, slot: int, tokens: Sequence[int], num_cached: int) -> None:
        """Do nothing: all state is in the KV rows the engine keeps."""

    def release(self, slot: int) -> None:
        """Do nothing: all state is in the KV rows the engine keeps."""

    def extend(self, commit: Commit) -> None:
        """Store the context keys and values of committed rows, read straight from the target's features."""
        assert commit.features is not None
        assert commit.kv is not None
        context = self.network.context(commit.features)
        rows = cache_rows(commit.kv, torch.repeat_interleave(commit.cu_rows.diff()), commit.positions)
        for layer, (k, v) in enumerate(self.network.context_keys_values(context, commit.positions)):
            commit.kv.keys[layer].view(-1, *k.shape[1:]).index_copy_(0, rows, k)
            commit.kv.values[layer].view(-1, *v.shape[1:]).index_copy_(0, rows, v)

    def propose(self, ask: DraftAsk) -> Draft:
        """Draft a block after each anchor; always at the trained width G, then cut to ask.lengths."""
        hidden = self._block(ask)
        logits = self.target.logits(hidden)
        tokens, q_logits, evidence = self._choose(hidden, logits, ask)
        point_mass = torch.zeros(len(ask.anchors), dtype=torch.bool, device=tokens.device)
        return Draft(tokens, ask.lengths, point_mass, q_logits, evidence)

    def _block(self, ask: DraftAsk) -> Tensor:
        """Return the final-normed states [B, G, H] of the block that starts at each anchor."""
        assert ask.kv is not None
        kv, config = ask.kv, self.network.config
        num_sequences, width = len(ask.anchors), config.block_size
        tokens = ask.anchors.new_full((num_sequences, width), config.mask_token_id)
        tokens[:, 0] = ask.anchors
        offsets = torch.arange(width, device=tokens.device)
        positions = (ask.positions[:, None] + offsets).flatten()
        attend = self._attention.over(
            kv,
            torch.arange(num_sequences + 1, device=tokens.device) * width,
            positions,
            visible=(ask.positions + width).repeat_interleave(width),
        )
        embedded = self.target.embed(tokens.flatten())
        return self.network.block(embedded, positions, attend).unflatten(0, (num_sequences, width))

    def _choose(self, hidden: Tensor, logits: Tensor, ask: DraftAsk) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ARG002
        """Turn base logits [B, G, V], in place, into those of the law, and draw from it.

        Returns tokens [B, G], the law and the evidence [B, G].
        """
        draws, evidence = SlotDraws(ask), margin_evidence(logits)
        return torch.stack([draws.draw(k, logits[:, k]) for k in range(logits.shape[1])], 1), logits, evidence
