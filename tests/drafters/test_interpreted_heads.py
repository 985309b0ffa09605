"""A sequential head in Triton's interpreter chooses the tokens that the torch twins choose, and reports the same."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kernels.dispatch import interpreted
from kernels.noise import coupled_keys, gumbel_noise
from tests.drafters.dflash_cases import ask, fixture_drafter, make_drafter, random_checkpoint

BATCH, WIDTH = 3, 7
KEYS, CHILDREN = np.arange(5, 5 + BATCH, dtype=np.uint64), np.zeros(BATCH, dtype=np.int64)
REDUCED = {"draft_vocab_size": 100, "markov_rank": 8, "markov_head_type": "gated", "enable_confidence_head": False}
DRAFTERS = {
    "vanilla": lambda: fixture_drafter("dspark_vanilla"),
    "gated": lambda: fixture_drafter("dspark_gated"),
    "rnn": lambda: fixture_drafter("dspark_rnn"),
    "reduced": lambda: make_drafter(*random_checkpoint(**REDUCED, own_ends=True)),
}


@pytest.fixture(scope="module", params=DRAFTERS.values(), ids=DRAFTERS.keys())
def drafter(request):
    return request.param()


def choose(drafter, question, seed=0):
    """Return tokens, evidence and the law, of blocks whose states are random."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(BATCH, WIDTH, drafter.target.shape.hidden_size, generator=generator)
    return drafter._choose(hidden, drafter._base_logits(hidden, question), question)


def question_of(temperatures, coupled=None, names_noise=False, top_k=0):
    noise = torch.rand(BATCH, WIDTH, generator=torch.Generator().manual_seed(1))
    question = ask(None, [1, 2, 3], [4, 5, 6], WIDTH, 1.0, noise)
    heat = torch.tensor(temperatures)
    limits = replace(
        question.processing,
        temperature=heat,
        top_k=torch.full((BATCH,), top_k),
        is_plain=bool((heat == 1).all()) and not top_k,
        truncates=top_k > 0,
        is_greedy=not heat.any(),
    )
    question = replace(question, processing=limits)
    if coupled is None:
        return question
    first = question.positions + 1
    if names_noise:
        return replace(question, gumbel=coupled_keys(KEYS, CHILDREN, first), coupled=torch.tensor(coupled))
    positions = first.numpy()[:, None] + np.arange(WIDTH)
    gumbel = gumbel_noise(KEYS, positions, CHILDREN, 512, torch.device("cpu"))
    return replace(question, gumbel=gumbel, coupled=torch.tensor(coupled))


@torch.inference_mode()
def check_as_twin(drafter, question, twins_question=None, compares_law=True):
    tokens, evidence, law = choose(drafter, twins_question or question)
    with interpreted():
        found, its_evidence, left = choose(drafter, question)
    assert torch.equal(found, tokens)
    torch.testing.assert_close(its_evidence, evidence, atol=1e-4, rtol=1e-4)
    heat = question.processing.temperature
    is_drawn = heat > 0 if question.coupled is None else (heat > 0) & ~question.coupled
    if compares_law and is_drawn.any():
        torch.testing.assert_close(left[is_drawn].softmax(-1), law[is_drawn].softmax(-1), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("temperatures", [(0.0, 0.0, 0.0), (1.0, 0.6, 0.0)], ids=["greedy", "mixed"])
def test_a_head_in_triton_chooses_as_the_twins(drafter, temperatures):
    check_as_twin(drafter, question_of(temperatures))


def test_a_head_in_triton_makes_the_noise_of_coupled_sequences_itself():
    drafter = DRAFTERS["gated"]()
    vocab = drafter.target.shape.vocab_size
    marks = (True, False, True)
    given = question_of((1.0, 0.6, 0.9), marks)
    given = replace(given, gumbel=given.gumbel[:, :, :vocab].contiguous())
    check_as_twin(drafter, question_of((1.0, 0.6, 0.9), marks, names_noise=True), given)
    check_as_twin(drafter, given)


def test_a_head_in_triton_leaves_truncated_laws_to_the_kernels_of_processing():
    check_as_twin(DRAFTERS["vanilla"](), question_of((1.0, 0.6, 0.0), top_k=4))


def test_greedy_drafts_in_triton_count_as_point_masses():
    drafter, question = DRAFTERS["vanilla"](), question_of((1.0, 0.6, 0.0))
    with interpreted():
        assert drafter._is_certain(question.noise, question).tolist() == [False, False, True]
    assert drafter._is_certain(question.noise, question).tolist() == [False] * 3
