"""An ordinary small causal language model as drafter: the target's vocabulary, its own weights and KV.

A proposal runs the anchor, then one row per further draft; what it wrote for drafts that were accepted is kept, so
`extend` runs only rows that no proposal has run for the same token at the same place. Its context may be shorter than
the target's: from there on it drafts nothing. Ids that it does not know are never drafted; where one is committed, it
reads the last id that it knows in its place.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.tensors import Commit, Draft, DraftAsk, PagedKV
from drafters.base import DrafterSpec
from drafters.draws import SlotDraws
from drafters.margin import margin_evidence
from models.paged import PagedAttention
from models.target import Target


@dataclass(frozen=True, slots=True)
class WrittenRows:
    """The rows of the KV group that one proposal wrote, for the sequences of its batch.

    slots, starts, counts  i64 [B]; sequence b's rows are starts[b] .. starts[b] + counts[b] - 1
    tokens                 i64 [B, G]; their input tokens, the anchor first
    """

    slots: Tensor
    starts: Tensor
    counts: Tensor
    tokens: Tensor

    def holds(self, commit: Commit, owners: Tensor) -> Tensor:
        """Tell which committed rows bool [N] are written; owners i64 [N] are their sequences in the commit.

        A row is, if its token and all from the start on are those that the proposal ran.
        """
        place = torch.full((int(torch.maximum(self.slots.max(), commit.slots.max())) + 1,), -1, device=owners.device)
        place[self.slots] = torch.arange(len(self.slots), device=owners.device)
        own = place[commit.slots]
        rows = own[owners]
        offsets = commit.positions - self.starts[rows]
        ran = self.tokens[rows, offsets.clamp(0, self.tokens.shape[1] - 1)]
        same = (rows >= 0) & (offsets >= 0) & (offsets < self.counts[rows]) & (ran == commit.tokens)
        # Positions ascend within a sequence: it holds the rows from its start to the first that differs.
        differs = torch.where((offsets >= 0) & ~same, offsets, self.tokens.shape[1])
        first = torch.full_like(commit.slots, self.tokens.shape[1]).scatter_reduce(0, owners, differs, "amin")
        return same & (offsets < first[owners])


class DraftModel:
    """Drafts token by token with a small model, in the target's dtype and numerics.

    network     its vocabulary may be smaller than the target's, or larger where the further ids stand for nothing
                (models/load_draft_model.py)
    vocab_size  the target's
    """

    def __init__(self, name: str, network: Target, vocab_size: int, max_drafts: int = 5) -> None:
        self.network, self.vocab_size = network, vocab_size
        self._attention = PagedAttention(network.shape.layers, network.numerics)
        self._written: WrittenRows | None = None
        self.spec = DrafterSpec(name=name, max_drafts=max_drafts, kv_layers=network.shape.kv_layers)

    def open(self, slot: int, tokens: Sequence[int], num_cached: int) -> None:
        """Do nothing: what a sequence has is in the KV rows the engine keeps."""

    def release(self, slot: int) -> None:
        """Do nothing: what a sequence had was in the KV rows the engine keeps."""

    def extend(self, commit: Commit) -> None:
        """Run committed rows through the model, but for those that the last proposal wrote."""
        assert commit.kv is not None
        counts = commit.cu_rows.diff()
        owners = torch.repeat_interleave(counts, output_size=len(commit.positions))
        runs = commit.positions < self.network.shape.max_positions
        # Good for one commit only: afterwards the blocks of rejected rows may be anybody's.
        written, self._written = self._written, None
        if written is not None:
            runs &= ~written.holds(commit, owners)
        if runs.any():
            counts = torch.zeros_like(counts).index_add_(0, owners[runs], torch.ones_like(owners[runs]))
            self._run(commit.kv, commit.tokens[runs], commit.positions[runs], counts)

    def propose(self, ask: DraftAsk) -> Draft:
        """Draft up to the longest of ask.lengths, each token from the law of the row before it."""
        room = (self.network.shape.max_positions - ask.positions).clamp_(min=0)
        lengths = torch.minimum(ask.lengths, room).to(torch.int32)
        batch, width = len(ask.anchors), self.spec.max_drafts
        tokens = ask.anchors.new_zeros(batch, width)
        q_logits = torch.zeros(batch, width, self.vocab_size, device=tokens.device)
        evidence = q_logits.new_zeros(batch, width)
        draws, inputs = SlotDraws(ask), [ask.anchors]
        for k in range(int(lengths.max())):
            rows = (lengths > k).nonzero().squeeze(1)
            logits = self._next_logits(ask, inputs[-1], k, rows)
            evidence[rows, k] = margin_evidence(logits)
            law = q_logits[:, k]
            law[rows] = logits
            tokens[rows, k] = draws.draw(k, law)[rows]
            inputs.append(tokens[:, k])
        run = torch.stack((inputs + inputs[:1] * width)[:width], 1)
        self._written = WrittenRows(ask.slots, ask.positions, lengths.long(), run)
        return Draft(tokens, lengths, torch.zeros_like(lengths, dtype=torch.bool), q_logits, evidence)

    def _next_logits(self, ask: DraftAsk, inputs: Tensor, offset: int, rows: Tensor) -> Tensor:
        """Run the rows `offset` past the anchors of the sequences at `rows` i64 [b]; their raw logits f32 [b, V]."""
        assert ask.kv is not None
        kv = PagedKV(ask.kv.keys, ask.kv.values, ask.kv.block_tables[rows], ask.kv.block_size)
        hidden = self._run(kv, inputs[rows], ask.positions[rows] + offset, torch.ones_like(rows))
        logits = self.network.logits(hidden)[:, : self.vocab_size]
        missing = self.vocab_size - logits.shape[1]
        return torch.nn.functional.pad(logits, (0, missing), value=-torch.inf) if missing else logits

    def _run(self, kv: PagedKV, tokens: Tensor, positions: Tensor, counts: Tensor) -> Tensor:
        """Run N rows, counts i64 [B] per sequence of `kv`, storing their keys and values; hidden states [N, H]."""
        cu_rows = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        attend = self._attention.over(kv, cu_rows, positions)
        known = tokens.clamp(max=self.network.shape.vocab_size - 1)
        return self.network(known, positions, attend)[0]
