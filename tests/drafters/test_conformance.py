"""What a drafter is: the contract of drafters/base.py, tried on every drafter that specd ships."""

import pytest
import torch

from bench.prove.tiny import tiny_target
from tests.drafters.makers import MAKERS, VOCAB_SIZE
from tests.drafters.stage import Stage, assert_same, parts

# Parts of it repeat, so that drafters which look things up have something to say.
TEXT = [1, 2, 3, 4, 5, 1, 2, 3, 6, 7, 1, 2, 3, 4, 5, 1, 2]
OTHER = [7, 7, 0, 6, 5, 7, 7, 0, 6, 5, 7, 7]


@pytest.fixture(scope="module")
def target():
    return tiny_target(VOCAB_SIZE)


@pytest.fixture(params=MAKERS)
def make(request, target):
    """Makes a stage with a drafter that has seen nothing yet."""
    return lambda: Stage(MAKERS[request.param](target), target)


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def told(make, text=TEXT, slot=0):
    stage = make()
    stage.open(slot, text)
    stage.tell(slot)
    return stage


def test_a_proposal_has_the_shapes_that_the_contract_names(make):
    stage = told(make)
    stage.open(2, OTHER)
    stage.tell(2)
    draft, spec = stage.propose(0, 2), stage.drafter.spec
    shape = (2, spec.max_drafts)
    assert (draft.tokens.shape, draft.tokens.dtype) == (shape, torch.int64)
    assert (draft.lengths.shape, draft.lengths.dtype) == ((2,), torch.int32)
    assert (draft.evidence.shape, draft.evidence.dtype) == (shape, torch.float32)
    assert 0 <= int(draft.tokens.min()) <= int(draft.tokens.max()) < VOCAB_SIZE
    assert 0 < int(draft.lengths.min()) <= int(draft.lengths.max()) <= spec.max_drafts
    assert draft.evidence.isfinite().all()
    assert draft.point_mass.tolist() == [spec.point_mass] * 2
    assert (draft.q_logits is None) == spec.point_mass
    if draft.q_logits is not None:
        assert (draft.q_logits.shape, draft.q_logits.dtype) == ((*shape, VOCAB_SIZE), torch.float32)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_no_more_is_drafted_than_was_asked_for_and_what_is_is_the_same(make, length):
    stage = told(make)
    whole, part = parts(stage.propose(0)), parts(stage.propose(0, lengths=[length]))
    assert 0 < len(part[0]) <= length
    assert_same(part, [each if each is None else each[: len(part[0])] for each in whole])


def test_a_draft_is_a_function_of_the_text_and_the_noise(make):
    assert_same(parts(told(make).propose(0, seed=3)), parts(told(make).propose(0, seed=3)), is_exact=True)


def test_proposing_leaves_nothing_behind(make):
    stage = told(make)
    first = parts(stage.propose(0, seed=1))
    stage.propose(0, seed=2)
    assert_same(parts(stage.propose(0, seed=1)), first, is_exact=True)


@pytest.mark.parametrize("place", range(3))
def test_evidence_and_length_do_not_depend_on_later_tokens(make, place):
    stage = told(make)
    width = stage.drafter.spec.max_drafts
    drafts = []
    for seed in range(20):
        noise = torch.full((1, width), 0.3)
        noise[:, place:] = torch.rand(width - place, generator=torch.Generator().manual_seed(seed))
        drafts.append(stage.propose(0, noise=noise, temperature=2.0))
    assert len({tuple(draft.tokens[0, :place].tolist()) for draft in drafts}) == 1
    assert len({tuple(draft.evidence[0, : place + 1].tolist()) for draft in drafts}) == 1
    assert len({int(draft.lengths[0]) for draft in drafts}) == 1
    # The test has power: the tokens from there on did change, unless they are not drawn at all.
    assert (len({int(draft.tokens[0, place]) for draft in drafts}) > 1) != stage.drafter.spec.point_mass


def chi_square(counts, law):
    likely = law * counts.sum() > 1e-3
    assert not counts[~likely].any()
    expected = law[likely] * counts.sum()
    return float(((counts[likely] - expected) ** 2 / expected).sum()), int(likely.sum()) - 1


def test_tokens_are_drawn_from_the_law_that_is_reported(make):
    stage = told(make)
    if stage.drafter.spec.point_mass:
        pytest.skip("a point mass draws nothing")
    for place in (0, 1):
        counts, law = torch.zeros(VOCAB_SIZE), None
        for seed in range(400):
            noise = torch.rand(1, stage.drafter.spec.max_drafts, generator=torch.Generator().manual_seed(seed))
            noise[:, :place] = 0.4
            draft = stage.propose(0, noise=noise, temperature=1.5, lengths=[place + 1])
            law = draft.q_logits[0, place].softmax(-1)
            counts[int(draft.tokens[0, place])] += 1
        statistic, freedom = chi_square(counts, law)
        # Seven degrees of freedom exceed 29.9 once in ten thousand.
        assert statistic < 29.9
        assert freedom > 2


def test_a_coupled_token_is_the_best_of_law_and_gumbel(make):
    stage = told(make)
    gumbel = -(-torch.rand(1, stage.drafter.spec.max_drafts, VOCAB_SIZE).clamp(1e-6).log()).log()
    draft = stage.propose(0, gumbel=gumbel)
    if stage.drafter.spec.point_mass:
        assert_same(parts(draft), parts(stage.propose(0)), is_exact=True)
    else:
        tokens, _, law = parts(draft)
        assert tokens == (law + gumbel[0, : len(tokens)]).argmax(-1).tolist()


def test_a_greedy_draft_asks_no_noise(make):
    stage = told(make)
    first, second = (parts(stage.propose(0, temperature=0.0, seed=seed)) for seed in (1, 2))
    assert_same(first, second, is_exact=True)
    if first[2] is not None:
        assert first[0] == first[2].argmax(-1).tolist()


@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_a_prefill_in_chunks_is_one_prefill(make, chunk):
    stage = make()
    stage.open(0, TEXT)
    for _ in range(0, len(TEXT) - 1, chunk):
        stage.tell(0, most=chunk)
    assert_same(parts(stage.propose(0)), parts(told(make).propose(0)))


def test_rows_told_twice_are_told_once(make):
    stage = told(make)
    stage.tell_rows({0: (len(TEXT) - 5, len(TEXT) - 1)})
    assert_same(parts(stage.propose(0)), parts(told(make).propose(0)))


def test_company_changes_nothing(make):
    stage = told(make)
    stage.open(1, OTHER)
    stage.open(2, TEXT[:9])
    stage.tell(2, 1)
    noise = torch.rand(3, stage.drafter.spec.max_drafts, generator=torch.Generator().manual_seed(5))
    together = stage.propose(2, 0, 1, noise=noise)
    assert_same(parts(together, 1), parts(told(make).propose(0, noise=noise[1:2])))
    assert_same(parts(together, 2), parts(told(make, OTHER, 1).propose(1, noise=noise[2:])))


def test_a_slot_remembers_nothing_of_the_sequence_before(make):
    stage = told(make, OTHER)
    stage.propose(0)
    stage.release(0)
    stage.open(0, TEXT)
    stage.tell(0)
    assert_same(parts(stage.propose(0)), parts(told(make).propose(0)))


@pytest.mark.parametrize("accepted", range(4))
def test_after_a_verdict_only_the_committed_tokens_count(make, accepted):
    stage = told(make)
    drafted, _, _ = parts(stage.propose(0))
    kept = drafted[:accepted]
    # Other than the draft went on, and as long as other tokens are told that the old draft's rows are all overwritten.
    other = [(drafted[accepted] + 1) % VOCAB_SIZE] if accepted < len(drafted) else [0]
    stage.append(0, [*kept, *other])
    stage.tell(0)
    assert_same(parts(stage.propose(0, seed=9)), parts(told(make, [*TEXT, *kept, *other]).propose(0, seed=9)))
