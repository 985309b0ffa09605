"""Edits of raw logits, before temperature: bias, penalties, and tokens banned while an answer is too short."""

import torch
from torch import Tensor

from core.errors import ShapeError
from core.tensors import Edits, LawRows


def edit(logits: Tensor, edits: Edits, rows: LawRows) -> Tensor:
    """Return logits f32 [N, V] with the edits each row's request asked for; the argument is left as it is.

    logits  f32 [N, V]; raw
    edits   of the B sequences; ids are distinct within a sequence and lie in 0..V - 1
    rows    a row after `offset` drafts counts those drafts as output, if rows.drafts is given
    In this order:
    1. bias is added;
    2. tokens seen in the prompt or in the output: z / repetition where z > 0, else z * repetition;
    3. z - frequency * occurrences in the output - presence, if there is any occurrence;
    4. ban_ids are -inf in rows with offset < min_left, whose token would be among the first min_left after the anchor.
    A ban that would leave a row no token at all is not applied to it. Each row is computed by itself: its bits are the
    same whatever other rows there are, and a row without edits is only copied.
    Raises ShapeError if a sequence has a penalty but there are no counts.
    Source: the OpenAI API reference for 1 and 3, Keskar et al. 2019 (CTRL), section 4.1, for 2.
    """
    biased = (edits.bias_ids >= 0).any(1)
    penalised = (edits.repetition != 1) | (edits.frequency != 0) | (edits.presence != 0)
    min_left = torch.where((edits.ban_ids >= 0).any(1), edits.min_left, 0)
    to_bias = biased[rows.sequence].nonzero().squeeze(1)
    to_penalise = penalised[rows.sequence].nonzero().squeeze(1)
    to_ban = (rows.offset < min_left[rows.sequence]).nonzero().squeeze(1)
    if len(to_bias) + len(to_penalise) + len(to_ban) == 0:
        return logits
    edited = logits.clone()
    if len(to_bias):
        _add_bias(edited, edits, rows.sequence[to_bias], to_bias)
    if len(to_penalise):
        edited[to_penalise] = _penalise(edited[to_penalise], edits, rows, to_penalise)
    if len(to_ban):
        edited[to_ban] = _ban(edited[to_ban], edits.ban_ids[rows.sequence[to_ban]])
    return edited


def _add_bias(logits: Tensor, edits: Edits, sequence: Tensor, index: Tensor) -> None:
    """Add the bias of sequence i64 [R] to rows index i64 [R], in place; padding adds 0 to token 0."""
    ids, bias = edits.bias_ids[sequence], edits.bias[sequence]
    is_bias = ids >= 0
    place = index[:, None].expand_as(ids), ids.where(is_bias, 0)
    logits.index_put_(place, bias.where(is_bias, 0.0), accumulate=True)


def _penalise(logits: Tensor, edits: Edits, rows: LawRows, index: Tensor) -> Tensor:
    """Apply the three penalties to logits [R, V] of the rows index i64 [R]."""
    if edits.counts is None or edits.in_prompt is None:
        raise ShapeError("a sequence has a penalty: edits need counts [B, V] and in_prompt [B, V], got None")
    sequence = rows.sequence[index]
    counts = edits.counts[sequence]
    if rows.drafts is not None:
        drafts = rows.drafts[sequence]
        is_before = torch.arange(drafts.shape[1], device=drafts.device) < rows.offset[index, None]
        counts.scatter_add_(1, drafts.where(is_before, 0), is_before.to(counts.dtype))
    in_output = counts > 0
    repetition, frequency, presence = (
        penalty[sequence, None] for penalty in (edits.repetition, edits.frequency, edits.presence)
    )
    repeated = torch.where(logits > 0, logits / repetition, logits * repetition)
    penalised = torch.where(edits.in_prompt[sequence] | in_output, repeated, logits)
    penalised = penalised - frequency * counts - presence * in_output
    # A repetition penalty near 0 may overflow, and infinities would leave no law.
    return penalised.clamp_(max=torch.finfo(penalised.dtype).max)


def _ban(logits: Tensor, ids: Tensor) -> Tensor:
    """Return logits [R, V] with ids i64 [R, S] at -inf, unless nothing would remain."""
    # Padding repeats the first id, which there always is.
    banned = logits.scatter(1, ids.where(ids >= 0, ids.amax(1, keepdim=True)), -torch.inf)
    return torch.where(banned.amax(1, keepdim=True) > -torch.inf, banned, logits)
