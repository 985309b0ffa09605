"""How a slot's tokens are drawn: each kind of sequence by its own rule, in any company."""

import pytest
import torch

from core.tensors import DraftAsk, LawRows, Processing
from drafters.draws import SlotDraws
from kernels.process import process
from kernels.reference import draw

VOCAB, WIDTH, SLOT = 50, 3, 1


def make_ask(temperatures, coupled=None, top_k=0, seed=0):
    batch, generator = len(temperatures), torch.Generator().manual_seed(seed)
    zeros = torch.zeros(batch, dtype=torch.int64)
    processing = Processing(
        torch.tensor(temperatures),
        zeros + top_k,
        torch.ones(batch),
        torch.zeros(batch),
        is_plain=set(temperatures) == {1.0} and not top_k,
        truncates=top_k > 0,
    )
    gumbel = -torch.rand(batch, WIDTH, VOCAB, generator=generator).log().neg().log()
    lengths = torch.full((batch,), WIDTH, dtype=torch.int32)
    noise = torch.rand(batch, WIDTH, generator=generator)
    marks = None if coupled is None else torch.tensor(coupled)
    kind = None if coupled is None else gumbel
    return DraftAsk(zeros, zeros, zeros, lengths, processing, noise, None, kind, marks)


def logits_of(ask, seed=1):
    return torch.randn(len(ask.slots), VOCAB, generator=torch.Generator().manual_seed(seed)) * 3


def law_of(ask, logits):
    sequence = torch.arange(len(logits))
    return process(logits.clone(), ask.processing, LawRows(sequence, torch.full_like(sequence, SLOT)))


@pytest.mark.parametrize("temperatures", [[1.0] * 4, [0.7, 1.0, 0.2], [0.0] * 3, [0.0, 1.0, 0.5]], ids=str)
@pytest.mark.parametrize("coupled", [None, "all", "mixed"])
@pytest.mark.parametrize("top_k", [0, 5])
def test_tokens_come_from_the_reported_law_by_the_sequences_own_rule(temperatures, coupled, top_k):
    marks = {None: None, "all": [True] * 4, "mixed": [True, False, True, False]}[coupled]
    ask = make_ask(temperatures, marks and marks[: len(temperatures)], top_k)
    raw = logits_of(ask)
    law = law_of(ask, raw)
    reported = raw.clone()
    tokens = SlotDraws(ask).draw(SLOT, reported)
    assert torch.equal(reported, law)
    expected = draw(law.softmax(-1), ask.noise[:, SLOT])
    if ask.gumbel is not None:
        expected = torch.where(ask.coupled, (law + ask.gumbel[:, SLOT]).argmax(-1), expected)
    assert tokens.tolist() == expected.tolist()


def test_the_rules_differ_so_the_test_above_has_power():
    ask = make_ask([1.0] * 64, [False] * 64)
    law = law_of(ask, logits_of(ask))
    by_noise, by_gumbel = draw(law.softmax(-1), ask.noise[:, SLOT]), (law + ask.gumbel[:, SLOT]).argmax(-1)
    assert (by_noise != by_gumbel).float().mean() > 0.3


def test_a_sequence_draws_the_same_whoever_is_coupled_beside_it():
    plain, mixed = make_ask([1.0, 0.8, 0.6]), make_ask([1.0, 0.8, 0.6], [False, True, False])
    alone, beside = (SlotDraws(ask).draw(SLOT, logits_of(ask)) for ask in (plain, mixed))
    assert alone[[0, 2]].tolist() == beside[[0, 2]].tolist()
