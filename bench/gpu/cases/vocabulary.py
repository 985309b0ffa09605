"""Cases of what streams over the vocabulary: verdicts, draws, processing, bans, log-probabilities, coupled noise."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from bench.gpu.contract import Call, Case, Gap, Outputs, close_to, equal_to, generator, num_bytes
from bench.gpu.laws import LAW_TOLERANCE, SCORE_TOLERANCE, draw_gap, num_outside, score_gap, verdict_gaps
from core.tensors import Allowed, Draft, LawRows, Processing, Verdict
from kernels import reference
from kernels.allowed import disallow
from kernels.coupled import couple, draw_coupled
from kernels.logprobs import token_logprobs
from kernels.noise import gumbel_noise
from kernels.process import process
from kernels.reject import draw_next, reject

QWEN_VOCAB = 151_936
WIDTH = 7
# Logits of a trained model are about this wide.
SPREAD = 3.0


def cases(is_dry_run: bool) -> list[Case]:
    """Return the cases of reject, coupled, process, allowed, logprobs and noise."""
    checked = [(1, 63), (9, 257)] if is_dry_run else [(1, 63), (9, 257), (5, 2049), (32, QWEN_VOCAB)]
    found = [case for batch, vocab in checked for case in _of_size(batch, vocab, is_timed=False)]
    timed = [(2, 257)] if is_dry_run else [(1, QWEN_VOCAB), (32, QWEN_VOCAB), (128, QWEN_VOCAB)]
    return found + [case for batch, vocab in timed for case in _of_size(batch, vocab, is_timed=True)]


def _of_size(batch: int, vocab: int, *, is_timed: bool) -> list[Case]:
    size = f"B{batch}-V{vocab}"
    builders: dict[tuple[str, str], Callable[[int, int, torch.device], Call]] = {
        ("reject", "sampled"): partial(_reject, "sampled"),
        ("reject", "point"): partial(_reject, "point"),
        ("reject", "mixed"): partial(_reject, "mixed"),
        ("reject", "draw_next"): _draw_next,
        ("coupled", "couple"): _couple,
        ("coupled", "draw"): _draw_coupled,
        ("process", "temperature"): partial(_process, None),
        ("process", "truncated"): partial(_process, (50, 0.9, 0.02)),
        ("allowed", "half"): _disallow,
        ("logprobs", "top20"): _logprobs,
        ("noise", "gumbel"): _noise,
    }
    return [
        Case(module, f"{name}/{size}", partial(build, batch, vocab), not is_timed, is_timed)
        for (module, name), build in builders.items()
    ]


def _logits(rows: int, vocab: int, device: torch.device, seed: int) -> Tensor:
    return SPREAD * torch.randn(rows, vocab, generator=generator(device, seed), device=device)


def _draft(kind: str, batch: int, vocab: int, device: torch.device) -> tuple[Draft, Tensor]:
    """Return drafts of a kind and how many of each are verified; q lies near p, so that drafts are also kept."""
    rng = generator(device, batch)
    lengths = ((torch.arange(batch, device=device) + 3) % (WIDTH + 1)).to(torch.int32)
    point_mass = torch.full((batch,), kind == "point", device=device)
    if kind == "mixed":
        point_mass = torch.arange(batch, device=device) % 2 == 0
    q_logits = None if kind == "point" else _logits(batch * WIDTH, vocab, device, 1).view(batch, WIDTH, vocab)
    laws = torch.zeros(batch * WIDTH, vocab, device=device) if q_logits is None else q_logits.flatten(0, 1)
    uniforms = torch.rand(batch * WIDTH, generator=rng, device=device)
    tokens = reference.draw(laws.softmax(-1), uniforms).view(batch, WIDTH)
    evidence = torch.zeros(batch, WIDTH, device=device)
    full = torch.full_like(lengths, WIDTH)
    return Draft(tokens, full, point_mass, q_logits, evidence), lengths


def _target_logits(draft: Draft, lengths: Tensor, vocab: int) -> Tensor:
    """Return rows of a target that agrees with the draft's law but for noise."""
    device = lengths.device
    logits = _logits(int(lengths.sum()) + len(lengths), vocab, device, 2)
    if draft.q_logits is None:
        return logits
    is_judged = torch.arange(WIDTH, device=device) < lengths[:, None]
    first = (lengths.long() + 1).cumsum(0) - lengths - 1
    rows = (first[:, None] + torch.arange(WIDTH, device=device))[is_judged]
    logits[rows] = draft.q_logits[is_judged] + 0.1 * logits[rows]
    return logits


def _reject(kind: str, batch: int, vocab: int, device: torch.device) -> Call:
    draft, lengths = _draft(kind, batch, vocab, device)
    logits = _target_logits(draft, lengths, vocab)
    uniforms = torch.rand(batch, WIDTH + 1, generator=generator(device, 3), device=device)

    def run() -> Outputs:
        verdict = reject(logits, draft, lengths, uniforms)
        return {
            "accepted": verdict.accepted,
            "next_token": verdict.next_token,
            "soft_labels": verdict.soft_labels,
        }

    def check(outputs: Outputs) -> dict[str, Gap]:
        verdict = Verdict(outputs["accepted"], outputs["next_token"], lengths, outputs["soft_labels"])
        return verdict_gaps(verdict, logits, draft, lengths, uniforms)

    # Of q only the places that are verified are read, and only where the draft was sampled.
    sampled = 0 if draft.q_logits is None else int((lengths * ~draft.point_mass).sum())
    return Call(run, check, num_bytes(logits, uniforms) + 4.0 * sampled * vocab)


def _draw_next(batch: int, vocab: int, device: torch.device) -> Call:
    logits = _logits(batch, vocab, device, 4)
    uniforms = torch.rand(batch, generator=generator(device, 5), device=device)

    def check(outputs: Outputs) -> dict[str, Gap]:
        return {"next_token": draw_gap(outputs["next_token"], logits.double().softmax(-1), uniforms)}

    return Call(lambda: {"next_token": draw_next(logits, uniforms)}, check, num_bytes(logits, uniforms))


def _couple(batch: int, vocab: int, device: torch.device) -> Call:
    draft, lengths = _draft("point", batch, vocab, device)
    logits = _logits(int(lengths.sum()) + batch, vocab, device, 6)
    gumbel = _gumbel(batch, WIDTH + 1, vocab, device)
    first = (lengths.long() + 1).cumsum(0) - lengths - 1
    # Half of the drafts are those that the noise draws, so that some sequences keep theirs.
    for j in range(WIDTH):
        judged = (lengths > j).nonzero().squeeze(1)
        drawn = (logits[first[judged] + j] + gumbel[judged, j]).argmax(-1)
        draft.tokens[judged, j] = torch.where((judged + j) % 4 != 0, drawn, draft.tokens[judged, j])

    def run() -> Outputs:
        verdict = couple(logits, draft, lengths, gumbel)
        return {"accepted": verdict.accepted, "next_token": verdict.next_token}

    def check(outputs: Outputs) -> dict[str, Gap]:
        accepted, next_token = outputs["accepted"].long(), outputs["next_token"]
        if outside := num_outside(accepted, next_token, lengths, vocab):
            return {"accepted": Gap(float(outside), 0.0, "accepted drafts or tokens that there are not")}
        rows = torch.arange(batch, device=device)
        worst = score_gap(next_token, logits[first + accepted].double() + gumbel[rows, accepted])
        for j in range(WIDTH):
            kept = (accepted > j).nonzero().squeeze(1)
            if len(kept):
                scores = logits[first[kept] + j].double() + gumbel[kept, j]
                worst = max(worst, score_gap(draft.tokens[kept, j], scores))
        ended = accepted < lengths
        repeats = next_token[ended] == draft.tokens[ended, accepted[ended]]
        return {
            "tokens": Gap(worst, SCORE_TOLERANCE, "score below the largest"),
            "accepted": Gap(float(repeats.sum().item()), 0.0, "rejected drafts that were drawn"),
        }

    read = num_bytes(logits) + 4.0 * len(logits) * vocab
    return Call(run, check, read)


def _draw_coupled(batch: int, vocab: int, device: torch.device) -> Call:
    logits, gumbel = _logits(batch, vocab, device, 7), _gumbel(batch, 1, vocab, device)[:, 0]

    def check(outputs: Outputs) -> dict[str, Gap]:
        gap = score_gap(outputs["tokens"], logits.double() + gumbel)
        return {"tokens": Gap(gap, SCORE_TOLERANCE, "score below the largest")}

    return Call(lambda: {"tokens": draw_coupled(logits, gumbel)}, check, num_bytes(logits, gumbel))


def _gumbel(batch: int, width: int, vocab: int, device: torch.device) -> Tensor:
    uniforms = torch.rand(batch, width, vocab, generator=generator(device, 8), device=device)
    return uniforms.clamp_(1e-7, 1 - 1e-7).log_().neg_().log_().neg_()


def _process(truncation: tuple[int, float, float] | None, batch: int, vocab: int, device: torch.device) -> Call:
    rows = batch * (WIDTH + 1)
    logits = _logits(rows, vocab, device, 9)
    top_k, top_p, min_p = truncation or (0, 1.0, 0.0)
    processing = Processing(
        temperature=torch.full((batch,), 0.7, device=device),
        top_k=torch.full((batch,), top_k, dtype=torch.int64, device=device),
        top_p=torch.full((batch,), top_p, device=device),
        min_p=torch.full((batch,), min_p, device=device),
        is_plain=False,
        truncates=truncation is not None,
    )
    each = torch.arange(rows, device=device)
    law_rows = LawRows(each // (WIDTH + 1), each % (WIDTH + 1))

    def check(outputs: Outputs) -> dict[str, Gap]:
        found, wanted = outputs["logits"].double(), reference.process(logits.double(), processing, law_rows)
        distance = 0.5 * (found.softmax(-1) - wanted.softmax(-1)).abs().sum(-1).max().item()
        # A law is its logits but for a number per row. Which tokens are left at all is the distance's business.
        shift = (found - found.amax(-1, keepdim=True)) - (wanted - wanted.amax(-1, keepdim=True))
        kept = found.isfinite() & wanted.isfinite()
        return {
            "law": Gap(distance, 10 * LAW_TOLERANCE, "total variation"),
            "logits": Gap(shift[kept].abs().max().item(), SCORE_TOLERANCE, "absolute error of those left"),
        }

    return Call(lambda: {"logits": process(logits, processing, law_rows)}, check, num_bytes(logits, logits))


def _disallow(batch: int, vocab: int, device: torch.device) -> Call:
    logits = _logits(batch, vocab, device, 10)
    rng = generator(device, 11)
    bits = torch.randint(1, 256, (batch, -(-vocab // 8)), generator=rng, device=device, dtype=torch.uint8)
    allowed = Allowed(torch.arange(batch, device=device), bits)
    on_host = logits.cpu(), Allowed(allowed.rows.cpu(), bits.cpu())
    return Call(
        lambda: {"logits": disallow(logits, allowed)},
        equal_to(lambda: {"logits": disallow(*on_host)}),
        num_bytes(logits, logits, bits),
    )


def _logprobs(batch: int, vocab: int, device: torch.device) -> Call:
    logits = _logits(batch, vocab, device, 12)
    tokens = torch.randint(vocab, (batch,), generator=generator(device, 13), device=device)

    def run() -> Outputs:
        scores = token_logprobs(logits, tokens, 20)
        return {"logprob": scores.logprob, "top_logprobs": scores.top_logprobs, "top_ids": scores.top_ids}

    def check(outputs: Outputs) -> dict[str, Gap]:
        wanted = token_logprobs(logits.double(), tokens, 20)
        pairs = {"logprob": wanted.logprob, "top_logprobs": wanted.top_logprobs}
        gaps = close_to(lambda: pairs, 1e-5)(outputs)
        # Logits are compared as they are given: no rounding decides which are the largest.
        return gaps | equal_to(lambda: {"top_ids": wanted.top_ids})(outputs)

    return Call(run, check, num_bytes(logits))


def _noise(batch: int, vocab: int, device: torch.device) -> Call:
    keys = np.arange(batch, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    positions = np.arange(batch, dtype=np.int64)[:, None] + np.arange(2)
    children = np.zeros(batch, dtype=np.int64)
    host = torch.device("cpu")
    size = 4.0 * batch * 2 * vocab
    return Call(
        lambda: {"noise": gumbel_noise(keys, positions, children, vocab, device)},
        close_to(lambda: {"noise": gumbel_noise(keys, positions, children, vocab, host)}, 1e-6),
        size,
    )
