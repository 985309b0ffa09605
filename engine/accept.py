"""From target logits to the tokens of a round: process, reject, cut at stop ids, one copy to the host."""

from dataclasses import dataclass

import torch
from torch import Tensor

from core.tensors import Draft, LawRows, Processing, Verdict
from kernels.process import process
from kernels.reject import reject


@dataclass(frozen=True, slots=True)
class Round:
    """The verdict on the sequences that got a next token in this step, on the device and on the host.

    index      i64 [S]; their places in the batch
    verdict    [S] entries
    emitted    per sequence its new tokens, accepted drafts then one more, cut after the first stop id
    stopped    per sequence whether a stop id was met
    accepted, verified   the verdict's counts, on the host
    """

    index: Tensor
    verdict: Verdict
    emitted: list[list[int]]
    stopped: list[bool]
    accepted: list[int]
    verified: list[int]


@dataclass(frozen=True, slots=True)
class Terms:
    """What the requests of S sequences asked for: logit processing, and stop ids i64 [S, K] padded with -1."""

    processing: Processing
    stop_ids: Tensor


def accept(index: Tensor, logits: Tensor, draft: Draft, lengths: Tensor, uniforms: Tensor, terms: Terms) -> Round:
    """Judge the drafts of S sequences by their target logits f32 [sum(lengths + 1), V].

    index      i64 [S]; places of the sequences in the batch
    draft, lengths   of these sequences, lengths i32 [S] drafts verified
    uniforms   f32 [S, G + 1]
    """
    law_rows = make_law_rows(lengths, draft.tokens)
    verdict = reject(process(logits, terms.processing, law_rows), draft, lengths, uniforms)
    emitted, counts, stopped = _cut(draft.tokens, verdict, terms.stop_ids)
    rows = emitted.tolist()
    return Round(
        index,
        verdict,
        [row[:count] for row, count in zip(rows, counts.tolist(), strict=True)],
        stopped.tolist(),
        verdict.accepted.tolist(),
        verdict.verified.tolist(),
    )


def make_law_rows(lengths: Tensor, drafts: Tensor) -> LawRows:
    """Say which law each judged row is: per sequence its anchor's and one after each of `lengths` i32 [S] drafts."""
    counts = lengths.to(torch.int64) + 1
    sequence = torch.repeat_interleave(counts)
    first = counts.cumsum(0) - counts
    return LawRows(sequence, torch.arange(len(sequence)) - first[sequence], drafts)


def _cut(drafted: Tensor, verdict: Verdict, stop_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens [S, G + 1], how many of each row are emitted, and whether a stop id ended the row."""
    places = torch.arange(drafted.shape[1] + 1)
    accepted = verdict.accepted[:, None]
    tokens = torch.nn.functional.pad(drafted, (0, 1))
    tokens = torch.where(places == accepted, verdict.next_token[:, None], tokens)
    stops = (tokens[:, :, None] == stop_ids[:, None, :]).any(-1) & (places <= accepted)
    stopped = stops.any(1)
    counts = torch.where(stopped, stops.to(torch.int8).argmax(1), verdict.accepted) + 1
    return tokens, counts, stopped
