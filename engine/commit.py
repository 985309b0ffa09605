"""From a verdict to what drafters are told: the rows that became final, catch-up rows before a sequence's own."""

from dataclasses import dataclass

import torch
from torch import Tensor

from core.tensors import Commit, PagedKV
from engine.accept import Round
from engine.catch_up import CatchUp
from engine.device import upload_all
from engine.plan import StepPlan
from engine.rows import StepRows
from engine.scheduler import Batch
from engine.slots import SlotTable
from engine.speculator import Speculator


@dataclass(frozen=True, slots=True)
class FinalRows:
    """Final rows of some sequences, in batch order, each sequence's by position.

    index        i64 [b]; the sequences, by place in the batch
    cu_rows      i64 [b + 1]
    source       i64 [K]; which row of the forward it is, -1 for one that was not run
    positions, tokens, next_tokens   i64 [K]
    """

    index: Tensor
    cu_rows: Tensor
    source: Tensor
    positions: Tensor
    tokens: Tensor
    next_tokens: Tensor


def final_rows(batch: Batch, rows: StepRows, verdict: Round, own: Tensor, drafter: str) -> FinalRows:
    """Return what one drafter hears of: the own rows of the sequences at `own` i64 [b], and what it catches up with.

    Reads the sequences as they were before the step appended to them.
    """
    follow = torch.zeros(len(batch.sequences), dtype=torch.bool)
    follow[own] = True
    missed = [(each, first) for each, first in rows.catch_up if each.sequence.group[0] == drafter]
    return _with_catch_up(_own_rows(batch, rows, verdict, follow), missed, len(batch.sequences))


def _own_rows(batch: Batch, rows: StepRows, verdict: Round, follow: Tensor) -> FinalRows:
    """Pick the uncomputed tokens and the accepted drafts of followed sequences; follow bool [B]."""
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
    positions, tokens = rows.verify.positions[final], rows.verify.tokens[final]
    return FinalRows(index, offsets(counts[index]), final, positions, tokens, next_tokens)


def _with_catch_up(own: FinalRows, catch_up: list[tuple[CatchUp, int]], batch_size: int) -> FinalRows:
    """Put caught-up rows before the own rows of their sequences; each comes with its first row of the forward."""
    if not catch_up:
        return own
    counts = torch.zeros(batch_size, dtype=torch.int64)
    counts[own.index] = own.cu_rows.diff()
    places = [torch.repeat_interleave(counts)]
    source, positions, tokens, next_tokens = [own.source], [own.positions], [own.tokens], [own.next_tokens]
    for each, first in catch_up:
        rows, known = torch.arange(each.num_rows), torch.tensor(each.tokens)
        places.append(torch.full_like(rows, each.place))
        source.append(rows + first if each.in_forward else torch.full_like(rows, -1))
        positions.append(rows + each.start)
        tokens.append(known[:-1])
        next_tokens.append(known[1:])
        counts[each.place] += each.num_rows
    # By position within a sequence: what was missed lies before what is new.
    order = (torch.cat(places) * (1 << 32) + torch.cat(positions)).argsort()
    index = counts.nonzero().squeeze(1)
    parts = (torch.cat(part)[order] for part in (source, positions, tokens, next_tokens))
    return FinalRows(index, offsets(counts[index]), *parts)


def make_commit(final: FinalRows, features: Tensor | None, slots: Tensor, kv: PagedKV | None) -> Commit:
    """Describe final rows to a drafter; slots i64 [b], on the device, and kv are those of their sequences."""
    parts = (final.source, final.cu_rows, final.positions, final.tokens, final.next_tokens)
    source, cu_rows, positions, tokens, next_tokens = upload_all(parts, slots.device)
    picked = None if features is None else features[source]
    return Commit(slots, cu_rows, positions, tokens, next_tokens, picked, kv)


def hand_over(
    plan: StepPlan, speculator: Speculator, final: FinalRows, features: Tensor | None, slots: SlotTable
) -> None:
    """Tell one drafter of its sequences' final rows; features [N, F] are those of the plan's layers."""
    sequences = tuple(plan.sequences[b] for b in final.index.tolist())
    own = slots.terms(sequences).slots
    picked = pick_features(features, plan.feature_layers, speculator.spec.feature_layers)
    commit = make_commit(final, picked, own, speculator.view(slots.block_tables[own]))
    ends = (final.positions[final.cu_rows[1:] - 1] + 1).tolist()
    speculator.extend(commit, list(zip(sequences, ends, strict=True)))


def offsets(counts: Tensor) -> Tensor:
    """Return the cumulative rows [b + 1] of counts i64 [b]."""
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))


def pick_features(features: Tensor | None, tapped: tuple[int, ...], wanted: tuple[int, ...]) -> Tensor | None:
    """Return the columns [N, F] of the layers that one drafter reads; None if it reads none."""
    if features is None or not wanted:
        return None
    if tapped == wanted:
        return features
    by_layer = features.chunk(len(tapped), -1)
    return torch.cat([by_layer[tapped.index(layer)] for layer in wanted], -1)
