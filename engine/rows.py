"""From a batch and its admitted drafts to the ragged rows of one target forward."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from core.tensors import Draft, VerifyRows
from engine.catch_up import CatchUp
from engine.scheduler import Batch


@dataclass(frozen=True, slots=True)
class StepRows:
    """The rows of a step and which of them are what.

    verify    the rows of the target forward: per sequence its uncomputed tokens, then its admitted drafts; behind all
              of these the rows of catch_up, which nothing else below speaks of
    sequence  i64 [N]; batch index of each row
    offset    i64 [N]; place of each row within its sequence's rows
    base      i64 [B]; uncomputed rows of each sequence
    samples   bool [B]; the sequence reaches its end and gets a next token
    index     i64 [S], on the host; the sequences that get a next token
    judged    i64 [M]; the rows whose logits the verifier needs: the last uncomputed one and the drafts
    catch_up  rows that drafters missed, and the first row of the forward that runs each, -1 if none does
    """

    verify: VerifyRows
    sequence: Tensor
    offset: Tensor
    base: Tensor
    samples: Tensor
    judged: Tensor
    index: Tensor
    catch_up: tuple[tuple[CatchUp, int], ...] = ()


def make_rows(batch: Batch, draft: Draft, lengths: Tensor, block_tables: Tensor) -> StepRows:
    """Lay out the target's rows; draft and lengths i32 [B] cover the whole batch (0 where nothing is verified)."""
    if not draft.tokens.shape[1] and max(batch.num_rows) == 1 and all(s.num_uncomputed == 1 for s in batch.sequences):
        return _plain_rows(batch, block_tables)
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
    index = samples.nonzero().squeeze(1)
    judged = (samples[sequence] & (drafted >= -1)).nonzero().squeeze(1)
    verify = VerifyRows(tokens, start[sequence] + offset, cu_rows, block_tables)
    return StepRows(verify, sequence, offset, base, samples, judged, index)


def _plain_rows(batch: Batch, block_tables: Tensor) -> StepRows:
    """Lay out a step in which everybody decodes plainly: one row each, all of them judged."""
    each = torch.arange(len(batch.sequences) + 1)
    tokens = torch.tensor([sequence.tokens[-1] for sequence in batch.sequences])
    positions = torch.tensor([sequence.num_computed for sequence in batch.sequences])
    sequence, ones = each[:-1], torch.ones_like(tokens)
    verify = VerifyRows(tokens, positions, each, block_tables)
    return StepRows(verify, sequence, torch.zeros_like(tokens), ones, ones.bool(), sequence, sequence)


def append_catch_up(rows: StepRows, catch_up: tuple[CatchUp, ...], block_tables: Tensor) -> StepRows:
    """Return the rows with those that drafters missed behind them; block_tables i64 [slots, max_blocks] are of all."""
    if not catch_up:
        return rows
    run = [each for each in catch_up if each.in_forward]
    firsts = dict.fromkeys(catch_up, -1)
    if not run:
        return replace(rows, catch_up=tuple(firsts.items()))
    verify, num_own = rows.verify, len(rows.verify.tokens)
    num_rows = torch.tensor([each.num_rows for each in run])
    cu_rows = num_own + num_rows.cumsum(0)
    firsts |= dict(zip(run, (cu_rows - num_rows).tolist(), strict=True))
    stores = torch.zeros(int(cu_rows[-1]), dtype=torch.bool)
    stores[:num_own] = True
    verify = VerifyRows(
        torch.cat((verify.tokens, *(torch.tensor(each.tokens[:-1]) for each in run))),
        torch.cat((verify.positions, *(torch.arange(each.start, each.stop) for each in run))),
        torch.cat((verify.cu_rows, cu_rows)),
        torch.cat((verify.block_tables, block_tables[torch.tensor([each.sequence.slot for each in run])])),
        stores,
    )
    return replace(rows, verify=verify, catch_up=tuple(firsts.items()))
