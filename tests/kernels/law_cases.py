"""Requests with every kind of logit processing, as the engine would hand them to the kernels."""

from dataclasses import dataclass

import torch
from torch import Tensor

from core.tensors import Edits, LawRows, Processing
from core.types import Sampling

STOP = 2
STOPS = (STOP, 5)
SAMPLINGS = [
    Sampling(),
    Sampling(temperature=0.7, logit_bias=((0, 3.5), (7, -100.0), (8, 1.25))),
    Sampling(repetition_penalty=1.7, temperature=1.3),
    Sampling(frequency_penalty=0.6, presence_penalty=-0.4),
    Sampling(presence_penalty=1.5, repetition_penalty=0.8, min_p=0.05),
    Sampling(min_tokens=5, stop_token_ids=STOPS),
    Sampling(min_tokens=4, stop_token_ids=(STOP,), top_k=5, min_p=0.3),
    Sampling(
        min_tokens=9, stop_token_ids=STOPS, frequency_penalty=2.0, repetition_penalty=1.2, logit_bias=((2, 50.0),)
    ),
    Sampling(temperature=0.0, frequency_penalty=1.1, logit_bias=((3, 2.0),)),
    Sampling(temperature=0.6, top_p=0.8, min_p=0.02),
    Sampling(temperature=2.0, top_k=40, top_p=0.95),
    Sampling(top_p=0.999),
    Sampling(temperature=0.0),
    Sampling(top_k=300),
]


@dataclass(frozen=True)
class Prefix:
    """Everything one sequence's next tokens hang on."""

    sampling: Sampling
    prompt: list[int]
    output: list[int]


def make_prefixes(vocab: int, seed: int = 0) -> list[Prefix]:
    """Return a sequence for each of SAMPLINGS; tokens repeat, within and between prompt and output."""
    rng = torch.Generator().manual_seed(seed)

    def some_tokens(num):
        return torch.randint(min(vocab, 12), (num,), generator=rng).tolist()

    return [Prefix(sampling, some_tokens(4), some_tokens(3)) for sampling in SAMPLINGS]


def make_processing(prefixes: list[Prefix], vocab: int) -> Processing:
    """Return how logits become laws for a batch of just these sequences."""
    asked = [prefix.sampling for prefix in prefixes]
    is_edited = any(s.logit_bias or s.min_tokens or has_penalty(s) for s in asked)
    truncates = any(s.top_k or s.top_p < 1 or s.min_p for s in asked)
    return Processing(
        torch.tensor([s.temperature for s in asked]),
        torch.tensor([s.top_k for s in asked]),
        torch.tensor([s.top_p for s in asked]),
        torch.tensor([s.min_p for s in asked]),
        is_plain=all(s.temperature == 1 for s in asked) and not truncates and not is_edited,
        truncates=truncates,
        edits=make_edits(prefixes, vocab) if is_edited else None,
    )


def make_edits(prefixes: list[Prefix], vocab: int) -> Edits:
    asked = [prefix.sampling for prefix in prefixes]
    penalises = any(map(has_penalty, asked))
    outputs = [torch.tensor(prefix.output, dtype=torch.int64) for prefix in prefixes]
    return Edits(
        padded([[token for token, _ in s.logit_bias] for s in asked], -1).long(),
        # What lies beside padding is not defined.
        padded([[bias for _, bias in s.logit_bias] for s in asked], 99.0),
        torch.tensor([s.repetition_penalty for s in asked]),
        torch.tensor([s.frequency_penalty for s in asked]),
        torch.tensor([s.presence_penalty for s in asked]),
        torch.stack([output.bincount(minlength=vocab) for output in outputs]).int() if penalises else None,
        torch.stack([torch.isin(torch.arange(vocab), torch.tensor(p.prompt)) for p in prefixes]) if penalises else None,
        padded([list(s.stop_token_ids) for s in asked], -1).long(),
        torch.tensor([max(0, p.sampling.min_tokens - len(p.output)) for p in prefixes]),
    )


def has_penalty(sampling: Sampling) -> bool:
    return (sampling.repetition_penalty, sampling.frequency_penalty, sampling.presence_penalty) != (1.0, 0.0, 0.0)


def padded(rows: list[list], filler) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [filler] * (width - len(row)) for row in rows]).reshape(len(rows), width)


def verification_rows(prefixes: list[Prefix], width: int, vocab: int, seed: int = 1) -> LawRows:
    """Return the anchor's row and one after each of `width` drafts, for every sequence."""
    rng = torch.Generator().manual_seed(seed)
    drafts = torch.randint(min(vocab, 12), (len(prefixes), width), generator=rng)
    sequence = torch.arange(len(prefixes)).repeat_interleave(width + 1)
    return LawRows(sequence, torch.arange(width + 1).repeat(len(prefixes)), drafts)
