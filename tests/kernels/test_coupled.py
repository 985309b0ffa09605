from dataclasses import replace

import numpy as np
import pytest
import torch

from core.errors import ShapeError
from core.tensors import LawRows, Processing
from kernels.coupled import couple, couple_triton, draw_coupled, draw_coupled_triton, keep_drawn_triton
from kernels.noise import coupled_keys, gumbel_noise
from kernels.process import process
from kernels.reference import keep_drawn
from tests.kernels.cases import REJECT_CASES, RejectCase
from tests.kernels.oracles import check_coupled


def coupled_round(case):
    """Return target_logits, draft, lengths, gumbel; every other draft is what the noise draws."""
    logits, draft, lengths, _ = case.build()
    rng = torch.Generator().manual_seed(case.seed + 1)
    uniform = torch.rand(case.batch, case.width + 1, case.vocab, generator=rng, dtype=torch.float64)
    gumbel = -(-uniform.clamp(1e-9).log()).log().float()
    tokens, first = draft.tokens.clone(), (lengths.long() + 1).cumsum(0) - lengths - 1
    for b in range(0, case.batch, 2):
        for j in range(int(lengths[b])):
            tokens[b, j] = (logits[first[b] + j] + gumbel[b, j]).argmax()
    return logits, replace(draft, tokens=tokens), lengths, gumbel


def from_probabilities(rows, tokens, gumbel):
    """One sequence: target rows given as probabilities, its drafts, its noise."""
    draft = one_draft(tokens)
    return torch.tensor(rows).log(), draft, draft.lengths, torch.tensor([gumbel])


def one_draft(tokens):
    base = RejectCase(1, len(tokens), 2, "point").build()[1]
    return replace(base, tokens=torch.tensor([tokens]), lengths=torch.tensor([len(tokens)], dtype=torch.int32))


@pytest.mark.parametrize("case", REJECT_CASES, ids=str)
def test_drafts_are_kept_while_they_are_what_the_noise_draws(case, poisoned):
    arguments = coupled_round(case)
    check_coupled(couple(*arguments), *arguments)


def test_cases_accept_reject_and_take_a_bonus():
    arguments = coupled_round(REJECT_CASES[2])
    verdict, drafted = couple(*arguments), arguments[1].lengths
    assert (verdict.accepted > 0).any()
    assert (verdict.accepted < verdict.verified).any()
    assert ((verdict.accepted == verdict.verified) & (verdict.verified < drafted)).any()


def test_the_first_disagreement_emits_the_targets_own_token():
    noise = [[0.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 0.0]]
    verdict = couple(*from_probabilities([[0.2, 0.2, 0.6], [0.6, 0.2, 0.2], [1.0, 0.0, 0.0]], [2, 0], noise))
    assert (int(verdict.accepted), int(verdict.next_token)) == (1, 1)
    assert verdict.soft_labels.tolist() == [[1.0, 0.0]]


def test_a_draft_after_a_disagreement_is_lost_even_if_it_agrees():
    verdict = couple(*from_probabilities([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1]], [1, 0], [[0.0, 0.0]] * 3))
    assert (int(verdict.accepted), int(verdict.next_token)) == (0, 0)


def test_full_accept_takes_its_bonus_from_the_last_row():
    verdict = couple(*from_probabilities([[0.9, 0.1], [0.1, 0.9]], [0], [[0.0, 0.0], [0.0, 0.0]]))
    assert (int(verdict.accepted), int(verdict.next_token)) == (1, 1)


@pytest.mark.parametrize("seed", range(5))
def test_greedy_laws_give_the_argmax_whatever_the_noise(seed):
    logits, draft, lengths, gumbel = coupled_round(RejectCase(9, 3, 63, seed=seed))
    size = len(draft.tokens)
    ones = torch.ones(size)
    greedy = Processing(ones * 0, ones.long() * 0, ones, ones * 0, is_plain=False, truncates=False)
    sequence = torch.repeat_interleave(lengths.long() + 1)
    laws = process(logits, greedy, LawRows(sequence, torch.zeros_like(sequence)))
    last = (lengths.long() + 1).cumsum(0) - 1
    verdict = couple(laws, replace(draft, tokens=draft.tokens * 0), lengths, gumbel)
    first = logits.argmax(-1)[last - lengths]
    stays = verdict.accepted == 0
    assert stays.any()
    assert torch.equal(verdict.next_token[stays], first[stays])


def test_equals_go_to_the_lowest_id_and_excluded_tokens_are_never_drawn():
    logits = torch.tensor([[-torch.inf, 1.0, 2.0, 1.0], [1.0, 1.0, 1.0, -torch.inf]])
    gumbel = torch.tensor([[22.0, 1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 22.0]])
    assert draw_coupled(logits, gumbel).tolist() == [1, 0]


def test_drawing_keeps_any_leading_shape():
    logits, gumbel = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    assert torch.equal(draw_coupled(logits, gumbel), (logits + gumbel).argmax(-1))


@pytest.mark.parametrize("shift", [0.0, 500.0])
def test_a_common_shift_of_the_logits_changes_no_draw(shift):
    # A plain batch keeps raw logits, a mixed one subtracts the largest: near 500 floats lie 3e-5 apart.
    logits, gumbel = torch.tensor([[1.0, 1.0, 0.5]]) + shift, torch.tensor([[0.0, 1e-6, 0.0]])
    assert draw_coupled(logits, gumbel).tolist() == [1]


def test_no_sequence_is_changed_by_the_rest_of_the_batch():
    logits, draft, lengths, gumbel = coupled_round(RejectCase(9, 3, 257))
    together = couple(logits, draft, lengths, gumbel)
    ends = (lengths.long() + 1).cumsum(0)
    for b in range(9):
        only = slice(b, b + 1)
        single = replace(draft, tokens=draft.tokens[only], lengths=draft.lengths[only])
        alone = couple(logits[ends[b] - lengths[b] - 1 : ends[b]], single, lengths[only], gumbel[only])
        for name in ("accepted", "next_token", "verified", "soft_labels"):
            assert torch.equal(getattr(alone, name)[0], getattr(together, name)[b])


def neighbours_noise(logits, draft, lengths, gumbel):
    return couple(logits, draft, lengths, gumbel.roll(1, 1))


def one_noise_for_all(logits, draft, lengths, gumbel):
    return couple(logits, draft, lengths, gumbel[:1].expand_as(gumbel))


def most_likely_bonus(logits, draft, lengths, gumbel):
    verdict = couple(logits, draft, lengths, gumbel)
    row = (lengths.long() + 1).cumsum(0) - lengths - 1 + verdict.accepted
    return replace(verdict, next_token=logits.argmax(-1)[row])


def one_draft_too_many(logits, draft, lengths, gumbel):
    verdict = couple(logits, draft, lengths, gumbel)
    return replace(verdict, accepted=torch.minimum(verdict.accepted + 1, lengths))


MISTAKES = [neighbours_noise, one_noise_for_all, most_likely_bonus, one_draft_too_many]


@pytest.mark.parametrize("body", MISTAKES, ids=lambda body: body.__name__)
def test_planted_mistakes_are_caught(body):
    arguments = coupled_round(RejectCase(63, 3, 63))
    check_coupled(couple(*arguments), *arguments)
    with pytest.raises(AssertionError):
        check_coupled(body(*arguments), *arguments)


@pytest.mark.parametrize("place", ["rows", "lengths", "gumbel"])
def test_wrong_shapes_are_told(place):
    logits, draft, lengths, gumbel = coupled_round(RejectCase(3, 2, 5))
    wrong = {
        "rows": (logits[:-1], draft, lengths, gumbel),
        "lengths": (logits, draft, lengths + 3, gumbel),
        "gumbel": (logits, draft, lengths, gumbel[:, :-1]),
    }
    with pytest.raises(ShapeError):
        couple(*wrong[place])


# --- Triton ------------------------------------------------------------------------------------------------------


def same(verdict, twin):
    names = ("accepted", "next_token", "verified", "soft_labels")
    return all(torch.equal(getattr(verdict, name), getattr(twin, name)) for name in names)


@pytest.mark.parametrize("case", REJECT_CASES, ids=str)
def test_triton_couples_as_the_twin(case, poisoned):
    arguments = coupled_round(case)
    verdict = couple_triton(*arguments)
    check_coupled(verdict, *arguments)
    assert same(verdict, couple(*arguments))


@pytest.mark.parametrize("case", [REJECT_CASES[1], RejectCase(3, 2, 1030), RejectCase(2, 0, 63)], ids=str)
def test_triton_makes_the_noise_it_is_told_the_name_of(case, poisoned):
    logits, draft, lengths, _ = coupled_round(case)
    keys, children = np.arange(case.batch, dtype=np.uint64) + np.uint64(2**40), np.arange(case.batch)
    named = coupled_keys(keys, children, torch.arange(case.batch) * 50)
    positions = named.first.numpy()[:, None] + np.arange(case.width + 1)
    gumbel = gumbel_noise(keys, positions, children, case.vocab, torch.device("cpu"))
    assert same(couple_triton(logits, draft, lengths, named), couple(logits, draft, lengths, gumbel))
    last = draw_coupled_triton(logits[: case.batch], named.at(case.width))
    assert torch.equal(last, draw_coupled(logits[: case.batch], gumbel[:, -1]))


def test_triton_gives_equals_to_the_lowest_id_and_never_what_is_excluded():
    logits = torch.tensor([[-torch.inf, 1.0, 2.0, 1.0], [1.0, 1.0, 1.0, -torch.inf], [500.0, 500.0, 499.5, 0.0]])
    gumbel = torch.tensor([[22.0, 1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 22.0], [0.0, 1e-6, 0.0, 0.0]])
    assert draw_coupled_triton(logits, gumbel).tolist() == [1, 0, 1]


def test_triton_keeps_what_was_drawn_as_the_twin(poisoned):
    logits, draft, lengths, _ = coupled_round(RejectCase(9, 3, 63))
    drawn = logits.argmax(-1)
    assert same(keep_drawn_triton(drawn, draft, lengths), keep_drawn(drawn, draft, lengths))


def test_triton_judges_nobody():
    logits, draft, lengths, gumbel = coupled_round(RejectCase(3, 2, 5))
    nobody = replace(draft, tokens=draft.tokens[:0], lengths=lengths[:0])
    assert len(couple_triton(logits[:0], nobody, lengths[:0], gumbel[:0]).accepted) == 0
