"""From a batch and its admitted drafts to the ragged rows of one target forward, and from a verdict to final rows."""

from dataclasses import dataclass

import torch
from torch import Tensor

from core.tensors import Commit, Draft, PagedKV, VerifyRows
from engine.accept import Round
from engine.scheduler import Batch


@dataclass(frozen=True, slots=True)
class StepRows:
    """The rows of a step and which of them are what.

    verify    the rows of the target forward: per sequence its uncomputed tokens, then its admitted drafts
    sequence  i64 [N]; batch index of each row
    offset    i64 [N]; place of each row within its sequence's rows
    base      i64 [B]; uncomputed rows of each sequence
    samples   bool [B]; the sequence reaches its end and gets a next token
    judged    i64 [M]; the rows whose logits the verifier needs: the last uncomputed one and the drafts
    """

    verify: VerifyRows
    sequence: Tensor
    offset: Tensor
    base: Tensor
    samples: Tensor
    judged: Tensor


def make_rows(batch: Batch, draft: Draft, lengths: Tensor, block_tables: Tensor) -> StepRows:
    """Lay out the target's rows; draft and lengths i32 [B] cover the whole batch (0 where nothing is verified)."""
    base = torch.tensor(batch.num_rows)
    start = torch.tensor([sequence.num_computed for sequence in batch.sequences])
    counts = base + lengths
    cu_rows = torch.zeros(len(base) + 1, dtype=torch.int64)
    torch.cumsum(counts, 0, out=cu_rows[1:])
    sequence = torch.repeat_interleave(counts)
    offset = torch.arange(len(sequence)) - cu_rows[sequence]
    pending = [
        torch.tensor(s.tokens[s.num_computed : s.num_computed + rows])
        for s, rows in zip(batch.sequences, batch.num_rows, strict=True)
    ]
    known = torch.nn.utils.rnn.pad_sequence(pending, batch_first=True)
    drafted = offset - base[sequence]
    choices = torch.cat((known, draft.tokens), 1)
    tokens = choices[sequence, torch.where(drafted < 0, offset, known.shape[1] + drafted)]
    samples = torch.tensor([batch.samples(b) for b in range(len(base))])
    judged = (samples[sequence] & (drafted >= -1)).nonzero().squeeze(1)
    verify = VerifyRows(tokens, start[sequence] + offset, cu_rows, block_tables)
    return StepRows(verify, sequence, offset, base, samples, judged)


@dataclass(frozen=True, slots=True)
class FinalRows:
    """Rows of the sequences whose drafter follows, that became final in this step, ready for a Commit.

    index          i64 [b]; the sequences, by place in the batch
    cu_rows        i64 [b + 1]
    rows           i64 [K]; which rows of the forward they are
    next_tokens    i64 [K]; the committed token after each row
    """

    index: Tensor
    cu_rows: Tensor
    rows: Tensor
    next_tokens: Tensor


def make_final(batch: Batch, rows: StepRows, verdict: Round, follow: Tensor) -> FinalRows:
    """Pick the final rows of followed sequences: their uncomputed tokens and their accepted drafts.

    follow  bool [B]
    """
    counts = rows.base.clone()
    counts[verdict.index] += verdict.verdict.accepted
    # After a prefill chunk that stops short of the end, the next token is already known.
    after = [s.tokens[min(s.num_computed + n, len(s.tokens) - 1)] for s, n in zip(batch.sequences, batch.num_rows)]
    following = torch.tensor(after)
    following[verdict.index] = verdict.verdict.next_token
    counts = counts * follow
    final = (rows.offset < counts[rows.sequence]).nonzero().squeeze(1)
    is_last = rows.offset[final] == counts[rows.sequence[final]] - 1
    shifted = rows.verify.tokens[(final + 1).clamp(max=len(rows.offset) - 1)]
    next_tokens = torch.where(is_last, following[rows.sequence[final]], shifted)
    index = follow.nonzero().squeeze(1)
    cu_rows = torch.zeros(len(index) + 1, dtype=torch.int64)
    torch.cumsum(counts[index], 0, out=cu_rows[1:])
    return FinalRows(index, cu_rows, final, next_tokens)


def make_commit(rows: StepRows, final: FinalRows, features: Tensor | None, slots: Tensor, kv: PagedKV | None) -> Commit:
    """Describe final rows to a drafter; slots i64 [b] and kv are those of the followed sequences."""
    picked = None if features is None else features[final.rows]
    positions, tokens = rows.verify.positions[final.rows], rows.verify.tokens[final.rows]
    return Commit(slots, final.cu_rows, positions, tokens, final.next_tokens, picked, kv)
