"""From target logits to the tokens of a round: process, judge, cut at stop ids, one copy to the host."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from core.tensors import Allowed, Draft, LawRows, Verdict
from core.types import TokenLogprobs
from engine.device import download, upload
from engine.drafts import select
from engine.noise import RoundNoise, some_noise
from engine.slots import Terms
from kernels.allowed import disallow
from kernels.coupled import couple, keep_drawn
from kernels.logprobs import token_logprobs
from kernels.process import process
from kernels.reject import draw_next, reject

Logprobs = tuple[TokenLogprobs, ...]


@dataclass(frozen=True, slots=True)
class Round:
    """The verdict on the sequences that got a next token in this step, on the device and on the host.

    index      i64 [S]; their places in the batch
    verdict    [S] entries
    emitted    per sequence its new tokens, accepted drafts then one more, cut after the first stop id
    stopped    per sequence whether a stop id was met
    logprobs   per sequence those of its new tokens, None where nobody asked
    accepted, verified   the verdict's counts, on the host
    """

    index: Tensor
    verdict: Verdict
    emitted: list[list[int]]
    stopped: list[bool]
    logprobs: list[Logprobs | None]
    accepted: list[int]
    verified: list[int]


def accept(
    index: Tensor,
    logits: Tensor,
    proposal: tuple[Draft, Tensor],
    noise: RoundNoise,
    terms: Terms,
    allowed: Allowed | None = None,
) -> Round:
    """Judge the drafts of S sequences by their target logits f32 [sum(lengths + 1), V].

    index      i64 [S]; places of the sequences in the batch
    proposal   their drafts, and how many of each are verified, lengths i32 [S]
    noise, terms   of these sequences
    allowed    what their grammars say of the logits' rows
    """
    draft, lengths = proposal
    processing = terms.processing
    if not draft.tokens.shape[1] and noise.gumbel is None and allowed is None and not any_logprobs(terms):
        return _accept_plain(index, logits, draft, noise, terms)
    rows = replace(make_law_rows(lengths, draft.tokens), allowed=allowed)
    if processing.is_greedy and processing.edits is None:
        verdict = keep_drawn(best(logits, rows), draft, lengths)
    else:
        verdict = _judge(process(logits, processing, rows), draft, lengths, noise, rows)
    tokens, counts, stopped = cut(draft.tokens, verdict, terms.stop_ids)
    emitted = [row[:count] for row, count in zip(tokens.tolist(), counts.tolist(), strict=True)]
    return Round(
        index,
        verdict,
        emitted,
        stopped.tolist(),
        logprobs_of(logits, lengths.tolist(), emitted, terms.logprobs),
        verdict.accepted.tolist(),
        verdict.verified.tolist(),
    )


def _accept_plain(index: Tensor, logits: Tensor, draft: Draft, noise: RoundNoise, terms: Terms) -> Round:
    """Draw one token for each sequence: what `accept` comes to where nothing was drafted, in fewer operations."""
    processing = terms.processing
    if processing.is_greedy and processing.edits is None:
        tokens = logits.argmax(-1)
    else:
        # The rows of a plain batch are as they are.
        if not processing.is_plain:
            logits = process(logits, processing, make_law_rows(draft.lengths, draft.tokens))
        tokens = draw_next(logits, noise.verdict[:, 0])
    emitted = tokens[:, None]
    stopped = (emitted == terms.stop_ids).any(1).tolist()
    # Nothing was drafted, so all counts are those of the draft, which are 0.
    verdict = Verdict(draft.lengths, tokens, draft.lengths, draft.evidence)
    nothing = [0] * len(stopped)
    return Round(index, verdict, emitted.tolist(), stopped, [None] * len(stopped), nothing, nothing)


def any_logprobs(terms: Terms) -> bool:
    """Tell whether any of the sequences wants log-probabilities."""
    return any(number is not None for number in terms.logprobs)


def best(logits: Tensor, rows: LawRows) -> Tensor:
    """Return the likeliest allowed token of each row, i64 [N]."""
    return (logits if rows.allowed is None else disallow(logits, rows.allowed)).argmax(-1)


def make_law_rows(lengths: Tensor, drafts: Tensor) -> LawRows:
    """Say which law each judged row is: per sequence its anchor's and one after each of `lengths` i32 [S] drafts."""
    if not drafts.shape[1]:
        return LawRows(torch.arange(len(lengths)), torch.zeros(len(lengths), dtype=torch.int64), drafts)
    counts = lengths.to(torch.int64) + 1
    sequence = torch.repeat_interleave(counts)
    first = counts.cumsum(0) - counts
    return LawRows(sequence, torch.arange(len(sequence)) - first[sequence], drafts)


def _judge(logits: Tensor, draft: Draft, lengths: Tensor, noise: RoundNoise, rows: LawRows) -> Verdict:
    """Let each sequence's own verifier decide; both may share a batch."""
    if noise.gumbel is None:
        return reject(logits, draft, lengths, noise.verdict)
    sampled = (~noise.coupled).nonzero().squeeze(1)
    if not len(sampled):
        return couple(logits, draft, lengths, noise.gumbel)
    coupled = noise.coupled.nonzero().squeeze(1)
    is_coupled, gumbel = noise.coupled[rows.sequence], some_noise(noise.gumbel, coupled)
    parts = (
        (sampled, reject(logits[~is_coupled], select(draft, sampled), lengths[sampled], noise.verdict[sampled])),
        (coupled, couple(logits[is_coupled], select(draft, coupled), lengths[coupled], gumbel)),
    )
    whole = Verdict(
        torch.empty_like(lengths),
        torch.empty(len(lengths), dtype=torch.int64),
        lengths,
        torch.empty(draft.tokens.shape),
    )
    for index, part in parts:
        whole.accepted[index] = part.accepted
        whole.next_token[index] = part.next_token
        whole.soft_labels[index] = part.soft_labels
    return whole


def cut(drafted: Tensor, verdict: Verdict, stop_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens [S, G + 1], how many of each row are emitted, and whether a stop id ended the row."""
    if not drafted.shape[1]:
        tokens = verdict.next_token[:, None]
        return tokens, torch.ones_like(verdict.next_token), (tokens == stop_ids).any(1)
    places = torch.arange(drafted.shape[1] + 1, device=drafted.device)
    accepted = verdict.accepted[:, None]
    tokens = torch.nn.functional.pad(drafted, (0, 1))
    tokens = torch.where(places == accepted, verdict.next_token[:, None], tokens)
    stops = (tokens[:, :, None] == stop_ids[:, None, :]).any(-1) & (places <= accepted)
    stopped = stops.any(1)
    counts = torch.where(stopped, stops.to(torch.int8).argmax(1), verdict.accepted) + 1
    return tokens, counts, stopped


def logprobs_of(
    logits: Tensor, verified: list[int], emitted: list[list[int]], wanted: tuple[int | None, ...]
) -> list[Logprobs | None]:
    """Return the raw law's log-probabilities of each emitted token, for the sequences that asked.

    logits  f32 [sum(verified + 1), V]
    """
    asked = [s for s, number in enumerate(wanted) if number is not None]
    found: list[Logprobs | None] = [None] * len(wanted)
    if not asked:
        return found
    first = [sum(verified[:s]) + s for s in range(len(wanted))]
    picked = upload([first[s] + place for s in asked for place in range(len(emitted[s]))], logits.device)
    tokens = upload([token for s in asked for token in emitted[s]], logits.device)
    scores = token_logprobs(logits[picked], tokens, max(number or 0 for number in wanted))
    columns = download((scores.logprob, scores.rank, scores.top_ids, scores.top_logprobs))
    entries = iter(zip(*(column.tolist() for column in columns), strict=True))
    for s in asked:
        number = wanted[s] or 0
        found[s] = tuple(
            TokenLogprobs(logprob, rank, tuple(ids[:number]), tuple(values[:number]))
            for logprob, rank, ids, values in (next(entries) for _ in emitted[s])
        )
    return found
