"""Eagle3: a chain of single rows, each drafting one token from the state before it (arXiv 2503.01840; no tree).

The slot of token t holds the pair of token t and the target's fused feature of row t - 1, roped at t - 1. Its keys and
values are all that a later row reads of it, and a row's output is wanted only where drafts begin. So `extend` stores
keys and values, and keeps the newest row's fused feature until the token after it is the anchor of a proposal or is
itself committed; and `propose` runs the layer from that feature on, every row fed with the output of the one before.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from core.planning import Calibration
from core.tensors import Commit, Draft, DraftAsk, PagedKV
from drafters.base import DrafterSpec
from drafters.draws import SlotDraws
from drafters.margin import margin_evidence
from kernels.attention_layout import cache_rows
from models.eagle3_net import Eagle3Net
from models.layers import Attend
from models.paged import PagedAttention
from models.target import Target

# No slot of a sequence: the feature of no row is kept.
NOTHING = -1


class Eagle3:
    """Drafts up to G tokens one after the other; embeddings and output head are the target's unless it has its own.

    calibration  what the evidence means, from the checkpoint; None if it does not say
    """

    def __init__(self, name: str, network: Eagle3Net, target: Target, calibration: Calibration | None = None) -> None:
        config = network.config
        self.network, self.target = network, target
        self._attention = PagedAttention((config.attention,), network.numerics)
        # Per engine slot the newest row's fused feature, and the sequence's slot that it is to be paired in.
        self._kept = torch.zeros(0, config.backbone.hidden_size, dtype=network.dtype)
        self._kept_for = torch.zeros(0, dtype=torch.int64)
        self.spec = DrafterSpec(
            name=name,
            max_drafts=config.num_drafts,
            feature_layers=config.target_layer_ids,
            kv_layers=(config.attention.kv_shape,),
            lookahead=1,
            calibration=calibration,
        )

    def open(self, slot: int, tokens: Sequence[int], num_cached: int) -> None:  # noqa: ARG002
        """Keep nothing of whoever had the slot before."""
        missing = max(0, slot + 1 - len(self._kept_for))
        self._kept = F.pad(self._kept, (0, 0, 0, missing))
        self._kept_for = F.pad(self._kept_for, (0, missing), value=NOTHING)
        self._kept_for[slot] = NOTHING

    def release(self, slot: int) -> None:
        """Do nothing: what the slot keeps is dropped when it is opened again."""

    def extend(self, commit: Commit) -> None:
        """Store the keys and values of committed tokens, and keep the feature of every sequence's last row.

        A sequence's first token pairs with the feature kept of the row before. None is kept where that row came from
        the prefix cache, and then the token's slot did too.
        """
        assert commit.features is not None
        assert commit.kv is not None
        first, last, slots = commit.cu_rows[:-1], commit.cu_rows[1:] - 1, commit.slots
        fused = self.network.fuse(commit.features)
        before = fused.roll(1, 0).index_copy_(0, first, self._kept[slots])
        has_pair = torch.ones_like(commit.positions, dtype=torch.bool)
        has_pair[first] = self._kept_for[slots] == commit.positions[first]
        self._store(commit, before, has_pair.nonzero().squeeze(1), commit.kv)
        # Not before all is stored: should a call fail half way, the same rows come again.
        self._kept[slots] = fused[last]
        self._kept_for[slots] = commit.positions[last] + 1

    def propose(self, ask: DraftAsk) -> Draft:
        """Draft token after token, as far as the longest of the lengths asked for.

        A sequence has none while its anchor is its first token, before which there is no feature.
        """
        num_sequences, width = len(ask.anchors), self.spec.max_drafts
        draws, state, token = SlotDraws(ask), self._kept[ask.slots], ask.anchors
        lengths = ask.lengths * (self._kept_for[ask.slots] == ask.positions)
        # One that has none runs along, at a place where it sees itself.
        positions = ask.positions.clamp(min=1)
        tokens = ask.anchors.new_zeros(num_sequences, width)
        evidence = torch.zeros(num_sequences, width, device=tokens.device)
        logits = evidence.new_zeros(num_sequences, width, self.target.shape.vocab_size)
        for k in range(int(lengths.max())):
            out = self.network(state, self._embed(token), positions - 1 + k, self._attend(ask, positions + k))
            normed = self.network.norm(out)
            logits[:, k] = self.network.vocabulary.logits(normed, self.target)
            evidence[:, k] = margin_evidence(logits[:, k])
            tokens[:, k] = token = draws.draw(k, logits[:, k])
            state = normed if self.network.config.feeds_normed else out
        point_mass = torch.zeros(num_sequences, dtype=torch.bool, device=tokens.device)
        return Draft(tokens, lengths, point_mass, logits, evidence)

    def _store(self, commit: Commit, before: Tensor, paired: Tensor, kv: PagedKV) -> None:
        """Store the rows `paired` i64 [n] of a commit, given the fused features [N, H] of the rows before them."""
        sequence = torch.repeat_interleave(commit.cu_rows.diff())
        positions = commit.positions[paired]
        embedded = self._embed(commit.tokens[paired])
        parts = self.network.keys_values(before[paired], embedded, positions - 1)
        rows = cache_rows(kv, sequence[paired], positions)
        for cache, part in zip((kv.keys[0], kv.values[0]), parts, strict=True):
            cache.view(-1, *part.shape[1:]).index_copy_(0, rows, part)

    def _attend(self, ask: DraftAsk, positions: Tensor) -> Attend:
        """Return the attention of one row per sequence, in the slots `positions` i64 [B]."""
        assert ask.kv is not None
        cu_rows = torch.arange(len(positions) + 1, device=positions.device)
        return self._attention.over(ask.kv, cu_rows, positions, most_rows=1)

    def _embed(self, tokens: Tensor) -> Tensor:
        """Look tokens [...] up, plainly: a scale that the target puts on its embeddings is its own."""
        return self.network.vocabulary.look_up(tokens, self.target)
