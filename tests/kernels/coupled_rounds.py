"""Whole answers under the coupled verifier on a toy model, with a place for every mistake worth planting."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from core.tensors import Draft
from kernels.coupled import couple, draw_coupled
from kernels.noise import gumbel_noise

NUM_DRAFTS = 3


def noise_at(keys, anchors, width, vocab):
    """Return the noise of the `width` tokens after each anchor, keyed by absolute position; f32 [B, width, V]."""
    positions = anchors[:, None] + 1 + np.arange(width)
    return gumbel_noise(keys, positions, np.zeros_like(anchors), vocab, torch.device("cpu"))


def noise_by_row(keys, anchors, width, vocab):
    """The mistake: key by the row of the round, so that every round draws the same."""
    return noise_at(keys, np.zeros_like(anchors), width, vocab)


def noise_with_another_bonus(keys, anchors, width, vocab):
    """The mistake: the last row's noise is not that of its position."""
    noise = noise_at(keys, anchors, width, vocab)
    noise[:, -1] = noise_at(keys + np.uint64(1 << 40), anchors, width, vocab)[:, -1]
    return noise


def noise_one_late(keys, anchors, width, vocab):
    """The mistake: all rows but the first take the noise of the position after theirs."""
    return noise_at(keys, anchors, width + 1, vocab)[:, [0, *range(2, width + 1)]]


def draft_coupled(q: Tensor, gumbel: Tensor, place: int) -> Tensor:
    return draw_coupled(q, gumbel[:, place])


def draft_one_late(q: Tensor, gumbel: Tensor, place: int) -> Tensor:
    """The mistake: draft with the noise of the next position. It biases nothing, but nothing is coupled."""
    return draw_coupled(q, gumbel[:, place + 1])


def draft_blindly(q: Tensor, gumbel: Tensor, place: int) -> Tensor:
    return torch.full((len(q),), place % q.shape[1])


def verify_none(drafts: Tensor, rng: torch.Generator) -> Tensor:
    return torch.zeros(len(drafts), dtype=torch.int32)


def verify_all(drafts: Tensor, rng: torch.Generator) -> Tensor:
    return torch.full((len(drafts),), drafts.shape[1], dtype=torch.int32)


def verify_any_number(drafts: Tensor, rng: torch.Generator) -> Tensor:
    return torch.randint(drafts.shape[1] + 1, (len(drafts),), generator=rng, dtype=torch.int32)


def verify_in_hindsight(drafts: Tensor, rng: torch.Generator) -> Tensor:
    """Send drafts only while their token is even: what would bias `rejection` cannot touch `coupled`."""
    return (drafts % 2 == 0).to(torch.int32).cumprod(1).sum(1, dtype=torch.int32)


class ToyPair:
    """Target laws p and draft laws q of the next token given the last one, as logits [V, V]."""

    def __init__(self, vocab: int, seed: int, closeness: float = 0.7) -> None:
        rng = torch.Generator().manual_seed(seed)
        self.p = 1.5 * torch.randn(vocab, vocab, generator=rng)
        self.q = closeness * self.p + (1 - closeness) * 3 * torch.randn(vocab, vocab, generator=rng)
        self.vocab = vocab


@dataclass
class Answers:
    """Tokens i64 [B, T] and what became of the drafts on the way."""

    tokens: Tensor
    num_accepted: int = 0
    num_verified: int = 0


def decode_plainly(pair: ToyPair, keys, num_tokens: int) -> Tensor:
    """Return the answers without speculation: one draw per position; the prompt is the token 0 at position 0."""
    tokens = torch.zeros(len(keys), num_tokens + 1, dtype=torch.int64)
    for position in range(num_tokens):
        gumbel = noise_at(keys, np.full(len(keys), position), 1, pair.vocab)[:, 0]
        tokens[:, position + 1] = draw_coupled(pair.p[tokens[:, position]], gumbel)
    return tokens[:, 1:]


def speculate(
    pair: ToyPair, keys, num_tokens: int, draft: Callable, choose: Callable, noise: Callable = noise_at
) -> Answers:
    """Return the answers of draft, choose, verify, commit, round after round."""
    batch, rng = len(keys), torch.Generator().manual_seed(0)
    tokens = torch.zeros(batch, num_tokens + NUM_DRAFTS + 2, dtype=torch.int64)
    anchors = torch.zeros(batch, dtype=torch.int64)
    answers = Answers(tokens[:, 1 : num_tokens + 1])
    while (going := (anchors < num_tokens).nonzero().squeeze(1)).numel():
        gumbel = noise(keys[going.numpy()], anchors[going].numpy(), NUM_DRAFTS + 1, pair.vocab)
        words = [tokens[going, anchors[going]]]
        for place in range(NUM_DRAFTS):
            words.append(draft(pair.q[words[-1]], gumbel, place))
        path = torch.stack(words, 1)  # [b, G + 1]; the anchor, then the drafts
        lengths = choose(path[:, 1:], rng)
        rows = pair.p[path][torch.arange(NUM_DRAFTS + 1) <= lengths[:, None]]
        verdict = couple(rows, as_draft(path[:, 1:]), lengths, gumbel)
        places = torch.arange(NUM_DRAFTS + 1)
        is_next = places == verdict.accepted[:, None]
        fresh = torch.where(is_next, verdict.next_token[:, None], torch.nn.functional.pad(path[:, 1:], (0, 1)))
        b, j = (places <= verdict.accepted[:, None]).nonzero(as_tuple=True)
        tokens[going[b], anchors[going][b] + 1 + j] = fresh[b, j]
        anchors[going] += verdict.accepted + 1
        answers.num_accepted += int(verdict.accepted.sum())
        answers.num_verified += int(lengths.sum())
    return answers


def as_draft(tokens: Tensor) -> Draft:
    size, width = tokens.shape
    lengths = torch.full((size,), width, dtype=torch.int32)
    return Draft(tokens, lengths, torch.ones(size, dtype=torch.bool), None, torch.zeros(size, width))
