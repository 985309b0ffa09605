"""DFlash: one parallel pass of a small network over the target's features drafts a whole block.

Committed rows become context keys and values once (`extend`); a proposal runs a block, the anchor and masks, through
the draft layers. Slot j stands at anchor + j and predicts the token after it (DeepSpec's convention), or the token at
its place (z-lab's), in which slot 0 has nothing left to predict. How slots become tokens is `_choose`, which DSpark
replaces.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from core.planning import Calibration
from core.tensors import Commit, Draft, DraftAsk
from drafters.base import DrafterSpec
from drafters.draws import SlotDraws
from drafters.margin import margin_evidence
from kernels.attention_layout import cache_rows
from kernels.dispatch import takes_triton
from models.dflash_net import DFlashNet
from models.paged import PagedAttention
from models.target import Target


class DFlash:
    """Drafts G tokens in parallel; the network was made for the target (models/load_drafter.py).

    calibration  what the evidence means, from the checkpoint; None if it does not say
    """

    def __init__(self, name: str, network: DFlashNet, target: Target, calibration: Calibration | None = None) -> None:
        config = network.config
        self.network, self.target = network, target
        self._attention = PagedAttention(config.attention, network.numerics)
        self.spec = DrafterSpec(
            name=name,
            max_drafts=config.num_drafts,
            feature_layers=config.target_layer_ids,
            kv_layers=tuple(layer.kv_shape for layer in config.attention),
            is_capturable=network.is_capturable,
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
        sequence = torch.repeat_interleave(commit.cu_rows.diff(), output_size=len(commit.positions))
        rows = cache_rows(commit.kv, sequence, commit.positions)
        for layer, (k, v) in enumerate(self.network.context_keys_values(context, commit.positions)):
            commit.kv.keys[layer].view(-1, *k.shape[1:]).index_copy_(0, rows, k)
            commit.kv.values[layer].view(-1, *v.shape[1:]).index_copy_(0, rows, v)

    def propose(self, ask: DraftAsk) -> Draft:
        """Draft a block after each anchor; always at the trained width G, then cut to ask.lengths."""
        hidden = self._block(ask)
        tokens, evidence, law = self._choose(hidden, self._base_logits(hidden, ask), ask)
        return Draft(tokens, ask.lengths, self._is_certain(law, ask), law, evidence)

    def _base_logits(self, hidden: Tensor, ask: DraftAsk) -> Tensor:  # noqa: ARG002
        """Return the base logits [B, G, V] that `_choose` takes."""
        return self.network.vocabulary.logits(hidden, self.target)

    def _is_certain(self, logits: Tensor, ask: DraftAsk) -> Tensor:
        """Tell whose drafts count as point masses, bool [B]: greedy ones on a GPU, which writes no law for them."""
        if takes_triton(logits):
            return ask.processing.temperature == 0
        return torch.zeros(len(ask.anchors), dtype=torch.bool, device=logits.device)

    def _block(self, ask: DraftAsk) -> Tensor:
        """Return the final-normed states [B, G, H] of the slots that predict, in the block that starts at each anchor.

        A block's keys and values take the rows anchor..anchor + block_size - 1, which the next commit overwrites: no
        more than the G rows past the anchor that the engine keeps for drafts, in either convention.
        """
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
            most_rows=width,
        )
        embedded = self.network.vocabulary.embed(tokens.flatten(), self.target)
        hidden = self.network.block(embedded, positions, attend).unflatten(0, (num_sequences, width))
        return hidden[:, width - config.num_drafts :].contiguous()

    def _choose(self, hidden: Tensor, logits: Tensor, ask: DraftAsk) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ARG002
        """Turn base logits [B, G, V] into those of the law, in place where they are in float32, and draw from it.

        Returns tokens [B, G], the evidence [B, G] and the law.
        """
        draws, evidence = SlotDraws(ask), margin_evidence(logits)
        return torch.stack([draws.draw(k, logits[:, k]) for k in range(logits.shape[1])], 1), evidence, logits
