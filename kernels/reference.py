"""The specification: every operation of a round in plain torch, written to be read.

Symbols: p is the target's law, q the draft's, c a conditional acceptance, a a survival (cumulative product of c).
Triton kernels answer to these functions (tests/kernels); on the CPU these are what runs. Nothing here draws random
numbers: uniforms and Gumbel noise are passed in (core/random.py). Why the output is exact: docs/exactness.md.
"""

import numpy as np
import torch
from torch import Tensor

from core.errors import EngineError, ShapeError
from core.planning import Calibration, EarlyStop, FixedLength, Rule, Seconds, Threshold, TopK
from core.tensors import Draft, Favour, LawRows, Processing, Verdict
from kernels.allowed import disallow
from kernels.edits import edit
from kernels.shapes import check_admit, check_lengths, check_reject
from kernels.truncation import drop_below, truncate


def reject(target_logits: Tensor, draft: Draft, lengths: Tensor, uniforms: Tensor) -> Verdict:
    """Accept the longest draft prefix the target agrees with and sample one more token.

    target_logits  f32 [N, V], N = sum(lengths + 1); processed target rows, ragged, in batch order: row j of a
                   sequence is the target's law of its draft j, its last row that of the token after them
    draft          tokens, point_mass, forced and q_logits are read, up to lengths
    lengths        i32 [B], 0..G; drafts sent to verification
    uniforms       f32 [B, G + 1] in [0, 1); column j accepts draft j, the last column draws the next token
    Draft x is accepted while u q(x) < p(x). After the first rejection the next token is drawn from
    max(p - q, 0), or from p if rounding leaves it no mass; after a full accept from p of the last row, never from the
    residual, also where lengths < draft.lengths. Laws are float32 softmaxes of the logits given.
    Raises ShapeError if the shapes do not fit, or lengths are not within 0..G.
    Source: Leviathan et al. 2023, Algorithm 1.
    """
    check_reject(target_logits, draft, lengths, uniforms)
    batch, width = draft.tokens.shape
    num_drafts = check_lengths(lengths, width, len(target_logits))
    p = target_logits.softmax(-1)  # [N, V]
    if num_drafts == 0:
        nothing = torch.zeros_like(uniforms[:, :width])
        return Verdict(torch.zeros_like(lengths), draw(p, uniforms[:, width]), lengths, nothing)

    # Drafts under verification, M in all, ragged in batch order: each sequence has one more row in p than in q.
    counts = lengths.to(torch.int64)
    first = counts.cumsum(0) - counts  # [B]
    is_verified = torch.arange(width, device=counts.device) < counts[:, None]
    cell = is_verified.flatten().nonzero().squeeze(1)  # [M]; places in a flat [B, G]
    row = torch.arange(num_drafts, device=counts.device) + cell // width
    token = draft.tokens.take(cell)
    p_token = p[row, token]
    excess, q_token, overlap = None, torch.ones_like(p_token), p_token
    is_sampled = torch.zeros_like(cell, dtype=torch.bool)
    if draft.q_logits is not None:
        is_sampled = ~draft.is_certain.take(cell)
        q = draft.q_logits.flatten(0, 1).index_select(0, cell).softmax(-1)  # [M, V]
        q_token = torch.where(is_sampled, q.gather(1, token[:, None]).squeeze(1), q_token)
        excess = p.index_select(0, row).sub_(q).clamp_(min=0)  # max(p - q, 0)
        # sum min(p, q) = 1 - sum max(p - q, 0): one pass serves the soft labels and the residual.
        overlap = torch.where(is_sampled, (1 - excess.sum(-1)).clamp_(0, 1), overlap)

    accepts = uniforms[:, :width].take(cell) * q_token < p_token
    accepted = _grid(accepts, cell, (batch, width)).cumprod(1).sum(1)  # [B]
    mass = p.index_select(0, first + accepted + torch.arange(batch, device=counts.device))  # [B, V]
    rejected = (accepted < counts).nonzero().squeeze(1)
    if len(rejected):
        loser = (first + accepted)[rejected]
        residual = mass[rejected].scatter_(1, token[loser, None], 0.0)  # q is one at the token
        if excess is not None:
            residual = torch.where(is_sampled[loser, None], excess[loser], residual)
        has_mass = residual.sum(-1, keepdim=True) > 0
        mass[rejected] = torch.where(has_mass, residual, mass[rejected])
    next_token = draw(mass, uniforms[:, width])
    return Verdict(accepted.to(torch.int32), next_token, lengths, _grid(overlap, cell, (batch, width)))


def _grid(values: Tensor, cell: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return zeros [B, G] with `values` in the flat places `cell`."""
    return values.new_zeros(shape[0] * shape[1]).index_copy_(0, cell, values).view(shape)


def draw(mass: Tensor, uniforms: Tensor) -> Tensor:
    """Draw one token per row by inverting the cumulative mass in order of token id; i64 [N].

    mass      f32 [N, V], not negative, not all zero; need not sum to 1
    uniforms  f32 [N] in [0, 1)
    The token is the first whose cumulative mass exceeds u * total, where total is the last cumulative value: a token
    of zero mass is never drawn. The CPU accumulates in float64 and keeps float32.
    """
    cumulative = mass.cumsum(-1)
    threshold = uniforms[:, None] * cumulative[:, -1:]
    token = torch.searchsorted(cumulative, threshold, right=True).clamp_(max=mass.shape[-1] - 1)
    if mass.is_cuda:
        # A parallel scan need not be monotone to the last bit, so it may step on a token of zero mass.
        token = torch.where(mass.gather(-1, token) > 0, token, mass.argmax(-1, keepdim=True))
    return token.squeeze(-1)


def couple(target_logits: Tensor, draft: Draft, lengths: Tensor, gumbel: Tensor) -> Verdict:
    """Draw the target's tokens with given noise, and keep drafts while they are the very tokens drawn.

    target_logits  f32 [N, V], N = sum(lengths + 1); processed target rows, ragged, in batch order, as for `reject`
    draft          tokens are read, up to lengths
    lengths        i32 [B], 0..G; drafts sent to verification
    gumbel         f32 [B, G + 1, V]; standard Gumbel noise of the tokens at anchor + 1 ..: of the target alone, keyed
                   by position, it is all the randomness there is
    Row j of a sequence draws t_j = argmax(logits + gumbel[:, j]), a sample of its law. Draft j is accepted while
    draft j = t_j; the next token is t at the first disagreement, else that of the last row. So the tokens out are
    t_0, t_1, .. whatever was drafted: drafts and lengths decide only how many come at once. soft_labels are 1 where a
    draft was accepted. Bit-equal for a sequence whatever else is in the batch.
    Raises ShapeError if the shapes do not fit, or lengths are not within 0..G.
    Source: Daliri, Musco and Suresh 2024, arXiv 2408.07978, Algorithm 2 (Gumbel coupling).
    """
    batch, width = draft.tokens.shape
    noise_shape = (batch, width + 1, target_logits.shape[-1])
    if lengths.shape != (batch,) or gumbel.shape != noise_shape:
        raise ShapeError(
            f"couple takes lengths [{batch}], gumbel {list(noise_shape)}, "
            f"got {list(lengths.shape)}, {list(gumbel.shape)}"
        )
    check_lengths(lengths, width, len(target_logits))
    return keep_drawn(draw_coupled(target_logits, gumbel.flatten(0, 1)[_cells(lengths, width)]), draft, lengths)


def keep_drawn(drawn: Tensor, draft: Draft, lengths: Tensor) -> Verdict:
    """Keep drafts while they are the tokens that the target drew; drawn i64 [N], ragged as the rows of `couple`.

    With the largest logits' ids for `drawn` this is the verdict of greedy rows, under either verifier.
    """
    batch, width = draft.tokens.shape
    cell = _cells(lengths, width)
    tokens = _grid(drawn, cell, (batch, width + 1))
    places = torch.arange(width, device=lengths.device)
    is_kept = ((tokens[:, :width] == draft.tokens) & (places < lengths[:, None])).to(torch.int32).cumprod(1)
    accepted = is_kept.sum(1, dtype=torch.int32)
    next_token = tokens.gather(1, accepted[:, None].long()).squeeze(1)
    return Verdict(accepted, next_token, lengths, is_kept.float())


def _cells(lengths: Tensor, width: int) -> Tensor:
    """Return the places of ragged rows [N] in a flat [B, G + 1]."""
    return (torch.arange(width + 1, device=lengths.device) <= lengths[:, None]).flatten().nonzero().squeeze(1)


def draw_coupled(logits: Tensor, gumbel: Tensor) -> Tensor:
    """Return argmax(logits + gumbel) over the vocabulary, the lowest id of equals; i64 [...].

    logits, gumbel  f32 [..., V]; noise of one's own position, for drafter and target the same
    The largest logit is subtracted first, so that logits of a plain batch, which `process` leaves as they are, round
    as they would in any other batch. A token at -inf is never drawn.
    """
    return logits.sub(logits.amax(-1, keepdim=True)).add_(gumbel).argmax(-1)


def process(logits: Tensor, processing: Processing, rows: LawRows) -> Tensor:
    """Turn raw logits into those of the law a request asked for, f32 [N, V]; the argument is left as it is.

    logits  f32 [N, V]
    rows    which sequence of `processing` each row belongs to, and which drafts lie before it
    In this order: what grammars forbid (kernels/allowed.py), edits (kernels/edits.py), temperature, top-k, top-p, min-p
    (kernels/truncation.py). softmax of the result is the law; dropped tokens are -inf. A temperature of 0 leaves 0 at
    the largest logit and -inf elsewhere.
    top-p keeps a token while the tokens before it hold less than top_p of the mass left by top-k; min-p one that has
    at least min_p times the chance of the most likely one. Equal logits rank by token id; the first is always kept.
    Logits of a plain batch without grammars are returned as they are. Each row is computed by itself, to the last bit:
    what else is in the batch cannot change it.
    """
    if rows.allowed is not None:
        logits = disallow(logits, rows.allowed)
    if processing.is_plain:
        return logits
    if processing.edits is not None:
        logits = edit(logits, processing.edits, rows)
    temperature = processing.temperature[rows.sequence]
    # Largest logit first: no temperature, however small, can then overflow.
    scaled = logits.sub(logits.amax(-1, keepdim=True)).div_(temperature[:, None])
    greedy = (temperature == 0).nonzero().squeeze(1)
    if len(greedy):
        best = logits[greedy].argmax(-1, keepdim=True)
        scaled[greedy] = torch.full_like(logits[greedy], -torch.inf).scatter_(1, best, 0.0)
    if not processing.truncates:
        return scaled
    top_k, top_p = processing.top_k[rows.sequence], processing.top_p[rows.sequence]
    limited = ((top_k > 0) | (top_p < 1)).nonzero().squeeze(1)
    if len(limited):
        scaled[limited] = truncate(scaled[limited], top_k[limited, None], top_p[limited, None])
    min_p = processing.min_p[rows.sequence]
    floored = (min_p > 0).nonzero().squeeze(1)
    if len(floored):
        scaled[floored] = drop_below(scaled[floored], min_p[floored, None])
    return scaled


def survival(evidence: Tensor, lengths: Tensor, calibration: Calibration | None) -> Tensor:
    """Return the chance that each draft and all before it are accepted; f32 [B, G], 0 past `lengths`.

    evidence     f32 [B, G]; logits of conditional acceptance
    lengths      i32 [B], 0..G; drafts that exist
    calibration  slope and intercept per place; None leaves the evidence as it is
    a_j = prod over i <= j of sigmoid(slope_i * evidence_i + intercept_i), in float32.
    Raises ShapeError if the calibration is not of G places.
    """
    width = evidence.shape[1]
    if lengths.shape != evidence.shape[:1]:
        raise ShapeError(f"lengths must be [{len(evidence)}], got {list(lengths.shape)}")
    if calibration is not None:
        if not len(calibration.slope) == len(calibration.intercept) == width:
            raise ShapeError(f"calibration must have {width} places, got {len(calibration.slope)} slopes")
        evidence = evidence * evidence.new_tensor(calibration.slope) + evidence.new_tensor(calibration.intercept)
    places = torch.arange(width, device=evidence.device)
    return evidence.sigmoid().cumprod(1).masked_fill_(places >= lengths[:, None], 0.0)


def admit(
    survival: Tensor,
    drafted: Tensor,
    group: Tensor,
    rules: tuple[Rule, ...],
    favour: Favour | None = None,
) -> Tensor:
    """Decide how many drafts of each sequence go to verification; i32 [B], never more than `drafted`.

    survival  f32 [B, G]; not increasing along a row, entry j a function of the tokens before j only
    drafted   i32 [B], 0..G
    group     i64 [B]; index into rules, a sequence of no group verifies nothing
    rules     one per group (core/planning.py says what each means)
    favour    whose drafts go first; None for nobody's
    The one function that sees live survival. Whether draft j is admitted depends on survivals up to its own, taken in
    the order in which drafts are admitted, and never on token j or later ones (docs/exactness.md). A draft of unknown
    survival (nan) ends its sequence's verification under every rule. EarlyStop sums in float64.
    Raises EngineError for a rule of an unknown type.
    """
    check_admit(survival, drafted, group)
    lengths = torch.zeros_like(drafted)
    if survival.numel() == 0:
        return lengths
    places = torch.arange(survival.shape[1], dtype=drafted.dtype, device=survival.device)
    # Only nan differs from itself.
    known = (places < drafted[:, None]) & (survival == survival)
    # Survivals fall along a row; the running minimum holds that even for a caller who breaks it.
    frontier = torch.where(known, survival, 0.0).cummin(1).values
    floored, ranking = favoured(frontier, known, favour) if favour else (None, frontier)
    for index, rule in enumerate(rules):
        member = group == index
        order = ranking if isinstance(rule, TopK) else frontier
        # A draft of 0 is never ranked: so others are out of this group's order.
        keep = _kept(rule, order.where(member[:, None], 0.0), member)
        keep = keep & known if floored is None else (keep | floored) & known
        lengths = torch.where(member, keep.cumprod(1).sum(1, dtype=lengths.dtype), lengths)
    return lengths


def favoured(frontier: Tensor, known: Tensor, favour: Favour) -> tuple[Tensor, Tensor]:
    """Return the known drafts below a floor, bool [B, G], and what TopK orders drafts by, f32 [B, G].

    That is survival times weight, and infinity for drafts below a floor. It falls along a row as the frontier does,
    and no entry reads more than its own survival.
    """
    places = torch.arange(frontier.shape[1], dtype=favour.floor.dtype, device=frontier.device)
    floored = known & (places < favour.floor[:, None])
    return floored, (frontier * favour.weight[:, None]).masked_fill_(floored, torch.inf)


def _kept(rule: Rule, frontier: Tensor, member: Tensor) -> Tensor:
    """Return which drafts [B, G] one rule admits of its members bool [B]; the first False of a row ends it."""
    match rule:
        case FixedLength(length=length):
            return (torch.arange(frontier.shape[1], device=frontier.device) < length).expand_as(frontier)
        case Threshold(value=value, cumulative=True):
            return frontier >= value
        case Threshold(value=value):
            before = torch.nn.functional.pad(frontier[:, :-1], (1, 0), value=1.0)
            return frontier >= value * before
        case TopK(budget=budget):
            _, order = _by_survival(frontier)
            return _first(order[: max(0, budget)], frontier)
        case EarlyStop(step_s=step_s, tops=tops):
            ordered, order = _by_survival(frontier)
            return _first(order[: int(_num_rising(ordered, member.sum(), step_s, tops))], frontier)
    raise EngineError(f"admission rule must be one of core.planning.Rule, got {rule!r}")


def _by_survival(frontier: Tensor) -> tuple[Tensor, Tensor]:
    """Return survivals in falling order and their places in the transposed matrix: ties by position, then row."""
    return frontier.t().flatten().sort(descending=True, stable=True)


def _first(admitted: Tensor, frontier: Tensor) -> Tensor:
    """Return which drafts [B, G] are in the `admitted` places, all of survival 0 left out."""
    kept = torch.zeros(frontier.numel(), dtype=torch.bool, device=frontier.device).index_fill_(0, admitted, True)
    return kept.view(frontier.shape[1], -1).t() & (frontier > 0)


def _num_rising(ordered: Tensor, num_sequences: Tensor, step_s: Seconds, tops: tuple[int, ...]) -> Tensor:
    """Return how many of the ordered drafts are admitted before expected tokens per second first fail to rise.

    theta_k = (R + sum of the first k survivals) / step_s[k], k = 0..len(step_s) - 1
    From where they fail, admission goes on to the next of `tops`.
    """
    seconds = as_seconds(step_s, ordered.device)
    most = max(0, min(len(ordered), len(seconds) - 1))
    tokens = ordered[:most].cumsum(0, dtype=torch.float64) + num_sequences
    rate = torch.cat((num_sequences / seconds[:1], tokens / seconds[1 : most + 1]))
    return filled((rate[1:] > rate[:-1]).cumprod(0).sum(), tops, most)


def as_seconds(step_s: Seconds, device: torch.device) -> Tensor:
    """Return the seconds of an EarlyStop, f64 [n]."""
    return torch.from_numpy(np.asarray(step_s, dtype=np.float64)).to(device)


def filled(num_admitted: Tensor, tops: tuple[int, ...], most: int) -> Tensor:
    """Return the first of `tops` that is num_admitted (a scalar) or more, at most `most`; itself where none is."""
    if not tops:
        return num_admitted
    ladder = torch.tensor(tops, device=num_admitted.device)
    index = torch.searchsorted(ladder, num_admitted.to(torch.int64))
    return torch.where(index < len(ladder), ladder[index.clamp(max=len(ladder) - 1)].clamp(max=most), num_admitted)
