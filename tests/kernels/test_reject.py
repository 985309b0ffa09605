from dataclasses import replace

import pytest
import torch

from core.errors import ShapeError
from core.tensors import Draft
from kernels import reference
from kernels.reject import draw_next, reject, reject_triton
from tests.kernels.cases import REJECT_CASES, RejectCase
from tests.kernels.oracles import check_verdict


def in_small_tiles(*arguments):
    return reject_triton(*arguments, tile=64)


BODIES = [reference.reject, in_small_tiles, reject_triton]


@pytest.mark.parametrize("body", BODIES, ids=["twin", "triton-tiles", "triton"])
@pytest.mark.parametrize("case", REJECT_CASES, ids=str)
def test_verdict_obeys_the_law_of_rejection_sampling(case, body, poisoned):
    arguments = case.build()
    check_verdict(body(*arguments), *arguments)


@pytest.mark.parametrize("case", REJECT_CASES, ids=str)
def test_triton_decides_as_the_twin(case, poisoned):
    arguments = case.build()
    verdict, twin = in_small_tiles(*arguments), reference.reject(*arguments)
    assert torch.equal(verdict.accepted, twin.accepted)
    assert torch.equal(verdict.next_token, twin.next_token)
    torch.testing.assert_close(verdict.soft_labels, twin.soft_labels, atol=1e-5, rtol=0)


def test_cases_accept_reject_and_take_a_bonus():
    arguments = REJECT_CASES[2].build()
    verdict = reference.reject(*arguments)
    drafted, verified, accepted = arguments[1].lengths, arguments[2], verdict.accepted
    assert (accepted > 0).any()
    assert (accepted < verified).any()
    assert ((accepted == verified) & (verified < drafted)).any()


def one_round(p, q, token, uniforms, point=False):
    """One sequence with one draft: rows of p are the draft's and the bonus place's law."""
    logits, q_logits = torch.tensor(p).log(), torch.tensor([[q]]).log()
    draft = one_draft(token, q_logits, point)
    return logits, draft, torch.ones(1, dtype=torch.int32), torch.tensor([uniforms])


def one_draft(token, q_logits, point):
    return reference.Draft(
        torch.tensor([[token]]),
        torch.ones(1, dtype=torch.int32),
        torch.tensor([point]),
        None if point else q_logits,
        torch.zeros(1, 1),
    )


@pytest.mark.parametrize("body", BODIES[:2], ids=["twin", "triton"])
def test_full_accept_takes_its_bonus_from_the_last_row(body):
    verdict = body(*one_round([[0.9, 0.1], [0.0, 1.0]], [0.5, 0.5], 0, [0.99, 0.01]))
    assert (int(verdict.accepted), int(verdict.next_token)) == (1, 1)


@pytest.mark.parametrize("body", BODIES[:2], ids=["twin", "triton"])
def test_rejection_draws_from_the_residual(body):
    verdict = body(*one_round([[0.3, 0.3, 0.4], [1.0, 0.0, 0.0]], [0.9, 0.05, 0.05], 0, [0.5, 0.0]))
    assert (int(verdict.accepted), int(verdict.next_token)) == (0, 1)
    assert float(verdict.soft_labels) == pytest.approx(0.4, abs=1e-6)


@pytest.mark.parametrize("body", BODIES[:2], ids=["twin", "triton"])
def test_a_certain_draft_that_the_target_excludes_is_never_kept_nor_drawn(body):
    verdict = body(*one_round([[0.0, 0.5, 0.5], [1.0, 0.0, 0.0]], [1.0, 0.0, 0.0], 0, [0.0, 0.0], point=True))
    assert (int(verdict.accepted), int(verdict.next_token)) == (0, 1)


@pytest.mark.parametrize("body", BODIES[:2], ids=["twin", "triton"])
def test_residual_without_mass_falls_back_to_the_target(body):
    # The draft lies: q is zero at its own token and equals p elsewhere, so rounding leaves no residual at all.
    verdict = body(*one_round([[0.0, 1.0], [1.0, 0.0]], [0.0, 1.0], 0, [0.5, 0.7]))
    assert (int(verdict.accepted), int(verdict.next_token)) == (0, 1)


def planted(name):
    """Return a verdict with one mistake in it."""

    def body(logits, draft, lengths, uniforms):
        if name == "draws from p after a rejection":
            verdict = reference.reject(logits, draft, lengths, uniforms)
            last = (lengths.long() + 1).cumsum(0) - lengths - 1 + verdict.accepted
            return replace(verdict, next_token=reference.draw(logits.softmax(-1)[last], uniforms[:, -1]))
        if name == "takes the bonus one row early":
            rows = logits.roll(1, 0)
            return reference.reject(rows, draft, lengths, uniforms)
        if name == "accepts one draft too many":
            verdict = reference.reject(logits, draft, lengths, uniforms)
            return replace(verdict, accepted=torch.minimum(verdict.accepted + 1, lengths))
        if name == "takes every draft for certain":
            return reference.reject(logits, replace(draft, q_logits=None), lengths, uniforms)
        return reference.reject(logits, replace(draft, q_logits=draft.q_logits * 0.9), lengths, uniforms)

    return body


@pytest.mark.parametrize(
    "mistake",
    [
        "draws from p after a rejection",
        "takes the bonus one row early",
        "accepts one draft too many",
        "takes every draft for certain",
        "q is not what was sampled from",
    ],
)
def test_planted_mistakes_are_caught(mistake):
    arguments = RejectCase(63, 3, 63).build()
    check_verdict(reference.reject(*arguments), *arguments)
    with pytest.raises(AssertionError):
        check_verdict(planted(mistake)(*arguments), *arguments)


def test_cpu_tensors_go_to_the_twin():
    arguments = REJECT_CASES[1].build()
    assert torch.equal(reject(*arguments).next_token, reference.reject(*arguments).next_token)


@pytest.mark.parametrize("place", ["rows", "lengths", "uniforms", "q_logits"])
def test_wrong_shapes_are_told(place):
    logits, draft, lengths, uniforms = RejectCase(3, 2, 5).build()
    wrong = {
        "rows": (logits[:-1], draft, lengths, uniforms),
        "lengths": (logits, draft, lengths + 3, uniforms),
        "uniforms": (logits, draft, lengths, uniforms[:, :-1]),
        "q_logits": (logits, replace(draft, q_logits=draft.q_logits[:, :, :-1]), lengths, uniforms),
    }
    with pytest.raises(ShapeError):
        reference.reject(*wrong[place])


@pytest.mark.parametrize("batch", [1, 5])
def test_a_round_without_drafts_draws_what_the_whole_verifier_draws(batch):
    generator = torch.Generator().manual_seed(batch)
    logits, uniforms = torch.randn(batch, 300, generator=generator), torch.rand(batch, generator=generator)
    nothing = torch.zeros(batch, 0)
    lengths = torch.zeros(batch, dtype=torch.int32)
    draft = Draft(nothing.long(), lengths, lengths.bool(), None, nothing)
    expected = reference.reject(logits, draft, lengths, uniforms[:, None])
    assert torch.equal(draw_next(logits, uniforms), expected.next_token)
