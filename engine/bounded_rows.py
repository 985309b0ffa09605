"""The rows of a step on a GPU, where how many drafts are verified is not known to the host when the forward begins.

The host knows a bound: what the plan allows at most. So many rows are laid out, in the order of engine/rows.py, and
what is not needed of them belongs to one sequence more, which is nobody's: its rows stand at position 0 of block 0 and
store nothing. Whatever is counted here is counted on the device, and nothing is read back.
"""

from collections.abc import Sequence as Listed
from dataclasses import dataclass

import torch
from torch import Tensor

from core.planning import FixedLength, TopK
from core.tensors import Draft, VerifyRows
from engine.catch_up import CatchUp
from engine.device import upload_all
from engine.plan import StepPlan
from engine.scheduler import Batch


@dataclass(frozen=True, slots=True)
class BoundedRows:
    """Rows on the device (`engine.rows.StepRows`).

    verify    the rows of the forward: own rows, padding, then the rows of catch_up
    judged    i64 [M]; the rows whose logits the verifier needs, ragged by lengths + 1, and at the end some that nobody
              does
    law       i64 [M] each; the judged sequence, 0..S - 1, and the drafts past its anchor; zeros at the end
    index     i64 [S], on the host; the sequences that get a next token
    num_own   rows before those of catch_up
    """

    verify: VerifyRows
    judged: Tensor
    law: tuple[Tensor, Tensor]
    index: Tensor
    num_own: int


def most_admitted(plan: StepPlan) -> int:
    """Return how many drafts the plan's rules can admit in all, whatever their survivals."""
    total = 0
    for part in plan.parts:
        lengths, rule = plan.draft_len[part.members], part.plan.rule
        allowed = int(lengths.sum())
        if part.plan.floor is None:
            match rule:
                case FixedLength(length=length):
                    allowed = int(lengths.clip(max=length).sum())
                case TopK(budget=budget):
                    allowed = min(allowed, budget)
                case _:
                    pass
        total += allowed
    return total


def make_bounded_rows(
    batch: Batch,
    draft: Draft,
    lengths: Tensor,
    tables: tuple[Tensor, Tensor],
    catch_up: tuple[CatchUp, ...],
    num_drafts: int,
) -> BoundedRows:
    """Lay out the target's rows for up to num_drafts admitted drafts; draft and lengths i32 [B] cover the batch.

    tables  the block tables of all slots i64 [slots, max_blocks], and the slots of the batch i64 [B]
    """
    device, run = lengths.device, [each for each in catch_up if each.in_forward]
    index = torch.tensor([b for b in range(len(batch.sequences)) if batch.samples(b)], dtype=torch.int64)
    facts = [*_facts(batch), index, *_catch_up_facts(run)]
    base, start, known_start, known, judged, *more = upload_all(facts, device)
    more_tokens, more_positions, more_rows, more_slots = more
    counts = base + lengths
    ends = counts.cumsum(0)
    firsts = ends - counts
    num_own = sum(batch.num_rows) + num_drafts

    row = torch.arange(num_own, device=device)
    is_row = row < ends[-1]
    sequence = torch.searchsorted(ends, row, right=True).clamp_(max=len(base) - 1)
    offset = row - firsts[sequence]
    drafted = offset - base[sequence]
    tokens = known[(known_start[sequence] + offset).clamp_(max=len(known) - 1)]
    if draft.tokens.shape[1]:
        own = draft.tokens[sequence, drafted.clamp(0, draft.tokens.shape[1] - 1)]
        tokens = torch.where(drafted < 0, tokens, own)
    tokens, positions = tokens * is_row, (start[sequence] + offset) * is_row

    padded = torch.full_like(ends[:1], num_own)
    cu_rows = torch.cat((torch.zeros_like(padded), ends, padded, num_own + more_rows.cumsum(0)))
    all_tables, slots = tables
    nobody = torch.zeros_like(all_tables[:1])
    stores = torch.cat((is_row, torch.zeros_like(more_tokens, dtype=torch.bool)))
    verify = VerifyRows(
        torch.cat((tokens, more_tokens)),
        torch.cat((positions, more_positions)),
        cu_rows,
        torch.cat((all_tables[slots], nobody, all_tables[more_slots])),
        stores,
    )
    law, judged_rows = _judge(judged, lengths, (firsts, base), len(index) + num_drafts)
    return BoundedRows(verify, judged_rows, law, index, num_own)


def _judge(
    judged: Tensor, lengths: Tensor, rows: tuple[Tensor, Tensor], size: int
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Return which law each judged row is, and which row of the forward; rows are the sequences' firsts and bases."""
    firsts, base = rows
    place = torch.arange(size, device=lengths.device)
    if not len(judged):
        return (place, place), place
    counts = lengths[judged].to(torch.int64) + 1
    ends = counts.cumsum(0)
    is_judged = place < ends[-1]
    which = torch.searchsorted(ends, place, right=True).clamp_(max=len(judged) - 1) * is_judged
    offset = (place - (ends - counts)[which]) * is_judged
    own = judged[which]
    return (which, offset), (firsts[own] + base[own] - 1 + offset) * is_judged


def _facts(batch: Batch) -> list[Tensor]:
    """Return of every sequence its uncomputed rows, its first position, where its tokens begin; and the tokens."""
    known: list[int] = []
    starts: list[int] = []
    for sequence, num_rows in zip(batch.sequences, batch.num_rows, strict=True):
        starts.append(len(known))
        known += sequence.tokens[sequence.num_computed : sequence.num_computed + num_rows]
    computed = [sequence.num_computed for sequence in batch.sequences]
    return [torch.tensor(values, dtype=torch.int64) for values in (batch.num_rows, computed, starts, known)]


def _catch_up_facts(run: Listed[CatchUp]) -> list[Tensor]:
    """Return tokens and positions of the rows that are run again, and of each sequence their number and its slot."""
    tokens = [token for each in run for token in each.tokens[:-1]]
    positions = [position for each in run for position in range(each.start, each.stop)]
    columns = (tokens, positions, [each.num_rows for each in run], [each.sequence.slot for each in run])
    return [torch.tensor(values, dtype=torch.int64) for values in columns]
