"""The draft model's own ways; what it shares with all drafters is in test_conformance.py."""

import msgspec
import pytest
import torch

from bench.prove.tiny import scramble, tiny_config, tiny_target
from core.types import Numerics, Speculation
from drafters.draft_model import DraftModel
from engine.engine import Engine
from models.network import for_inference
from models.qwen3 import Qwen3
from policies.fixed import Fixed, Off
from tests.drafters.stage import Stage, assert_same, parts
from toys import SHAPE, make_engine, request, run

VOCAB_SIZE = 8
TEXT = [1, 2, 3, 4, 5, 1, 2, 3, 6, 7, 1, 2]
FIXED = Speculation(policy="fixed")
LAWS = {
    "greedy": {"temperature": 0.0},
    "rejection": {"temperature": 1.0},
    "coupled": {"temperature": 1.0, "seed": 7},
}


@pytest.fixture(scope="module")
def target():
    return tiny_target(VOCAB_SIZE)


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def draft_model(target, vocab_size=VOCAB_SIZE, max_positions=512):
    config = msgspec.structs.replace(tiny_config(vocab_size, layers=2), max_position_embeddings=max_positions)
    network = Qwen3(config)
    scramble(network, 5, 1.0)
    return DraftModel("draft_model", for_inference(network, torch.float32), target.shape.vocab_size)


def told(target, drafter, text=TEXT):
    stage = Stage(drafter, target)
    stage.open(0, text)
    stage.tell(0)
    return stage


class Counted:
    """Counts the rows that a network runs."""

    def __init__(self, drafter, monkeypatch):
        self.num_rows, forward = 0, drafter.network.forward

        def counting(tokens, *rest):
            self.num_rows += len(tokens)
            return forward(tokens, *rest)

        monkeypatch.setattr(drafter.network, "forward", counting)

    def during(self, call, *arguments):
        before = self.num_rows
        call(*arguments)
        return self.num_rows - before


@pytest.mark.parametrize(
    ("accepted", "goes_on", "rows"),
    [(0, 1, 0), (2, 1, 0), (4, 1, 0), (5, 1, 1), (2, 3, 2)],
    ids=["none", "some", "all-but-one", "all", "told-late"],
)
def test_only_rows_that_the_proposal_has_not_run_are_run_again(target, monkeypatch, accepted, goes_on, rows):
    stage = told(target, draft_model(target))
    drafted, _, _ = parts(stage.propose(0))
    other = (drafted[min(accepted, 4)] + 1) % VOCAB_SIZE
    stage.append(0, [*drafted[:accepted], *[other] * goes_on])
    counted = Counted(stage.drafter, monkeypatch)
    assert counted.during(stage.tell, 0) == rows
    assert_same(parts(stage.propose(0)), parts(told(target, draft_model(target), stage.texts[0]).propose(0)))


def test_a_drafted_token_that_comes_after_another_than_it_was_drafted_after_is_run_again(target, monkeypatch):
    stage = told(target, draft_model(target))
    drafted, _, _ = parts(stage.propose(0))
    stage.append(0, [(drafted[0] + 1) % VOCAB_SIZE, *drafted[1:3]])
    counted = Counted(stage.drafter, monkeypatch)
    # The last token is the anchor, which is run when drafts are asked for.
    assert counted.during(stage.tell, 0) == 2


def test_what_a_proposal_wrote_is_good_for_one_commit_only(target, monkeypatch):
    stage = told(target, draft_model(target))
    drafted, _, _ = parts(stage.propose(0))
    stage.append(0, drafted)
    counted = Counted(stage.drafter, monkeypatch)
    # Between the two its blocks may have been somebody else's.
    stage.open(1, TEXT)
    assert counted.during(stage.tell, 1) == len(TEXT) - 1
    assert counted.during(stage.tell, 0) == len(drafted)


def test_a_proposal_runs_one_row_per_draft_that_was_asked_for(target, monkeypatch):
    stage = told(target, draft_model(target))
    stage.open(1, TEXT)
    stage.tell(1)
    counted = Counted(stage.drafter, monkeypatch)
    assert counted.during(lambda: stage.propose(0, 1, lengths=[1, 3])) == 4


def test_ids_that_a_smaller_vocabulary_lacks_are_never_drafted(target):
    stage = told(target, draft_model(target, vocab_size=6), [1, 2, 7, 6])
    _, evidence, law = parts(stage.propose(0, temperature=5.0))
    assert law.shape == (5, VOCAB_SIZE)
    assert not law.softmax(-1)[:, 6:].any()
    assert (law.softmax(-1)[:, :6] > 0).all()
    assert evidence.isfinite().all()


def test_ids_beyond_the_targets_are_cut_off(target):
    stage = told(target, draft_model(target, vocab_size=20))
    draft = stage.propose(0, temperature=100.0)
    assert draft.q_logits.shape == (1, 5, VOCAB_SIZE)
    assert int(draft.tokens.max()) < VOCAB_SIZE


@pytest.mark.parametrize(("length", "drafts"), [(12, 5), (13, 4), (16, 1), (17, 0), (30, 0)])
def test_it_drafts_nothing_beyond_its_own_context(target, length, drafts):
    stage = told(target, draft_model(target, max_positions=16), (TEXT * 3)[:length])
    stage.open(1, TEXT[:4])
    stage.tell(1)
    draft = stage.propose(0, 1)
    assert draft.lengths.tolist() == [drafts, 5]
    assert_same(parts(draft, 1), parts(told(target, stage.drafter, TEXT[:4]).propose(0, noise=second_noise())))


def second_noise():
    return torch.rand(2, 5, generator=torch.Generator().manual_seed(0))[1:]


def prompts(count):
    return [tuple((5 * i + j * j) % VOCAB_SIZE for j in range(4 + 3 * i)) for i in range(count)]


def requests(law, count=4, max_tokens=64):
    return [request(p, i, str(i), max_tokens=max_tokens, **LAWS[law]) for i, p in enumerate(prompts(count))]


@pytest.mark.parametrize("law", LAWS)
def test_the_target_as_its_own_draft_model_is_always_right(law):
    target, own = (tiny_target(VOCAB_SIZE, numerics=Numerics.BATCH_INVARIANT) for _ in range(2))
    engine = make_engine(target, DraftModel("draft_model", own, VOCAB_SIZE), Fixed(5))
    run(engine, requests(law))
    assert engine.stats.accepted == engine.stats.verified > 100
    assert not engine.stats.fallbacks


def test_a_draft_model_that_holds_for_least_likely_what_the_target_says_is_never_right(target, monkeypatch):
    contrary = tiny_target(VOCAB_SIZE)
    logits = contrary.logits
    monkeypatch.setattr(contrary, "logits", lambda hidden: -logits(hidden))
    engine = make_engine(target, DraftModel("draft_model", contrary, VOCAB_SIZE), Fixed(5))
    run(engine, requests("greedy"))
    assert (engine.stats.accepted, engine.stats.verified > 100) == (0, True)
    assert not engine.stats.fallbacks


def test_an_answer_goes_on_past_the_draft_models_context(target):
    engine = make_engine(target, draft_model(target, max_positions=40), Fixed(5))
    texts = run(engine, requests("greedy", 1, max_tokens=100))
    assert len(texts["0"]) == 100
    assert not engine.stats.fallbacks
    drafted = engine.stats.drafted
    assert drafted > 0
    run(engine, [request((1,) * 41, max_tokens=20)])
    assert engine.stats.drafted == drafted


def test_a_drafter_that_was_not_followed_is_told_in_chunks(target, monkeypatch):
    drafter = draft_model(target)
    engine = Engine(target, {"draft_model": drafter}, {"off": Off, "fixed": lambda: Fixed(3)}, SHAPE, ())
    prompt = tuple(range(8)) * 16
    run(engine, [request(prompt, name="a", max_tokens=4, max_drafts=0)])
    longest, forward = [], drafter.network.forward
    monkeypatch.setattr(drafter.network, "forward", lambda t, *rest: longest.append(len(t)) or forward(t, *rest))
    asking = msgspec.structs.replace(request(prompt, name="b", max_tokens=20), speculation=FIXED)
    run(engine, [asking])
    assert engine.scheduler.prefix_hits == 124
    assert engine.stats.drafted > 0
    assert max(longest) <= SHAPE.max_num_batched_tokens
    assert engine.stats.catch_up_rows == 0
