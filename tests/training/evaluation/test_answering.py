"""The real engine answers: turns follow each other, prefixes are found, rounds add up to tokens."""

from itertools import islice, pairwise

import numpy as np
import pytest

from core.errors import ConfigError
from core.types import Sampling
from layers import ROOT
from models.tokenizer import Tokenizer
from policies.calibration_fit import identity
from policies.fixed import Fixed
from toys import make_engine, tiny_dspark, tiny_target
from training.evaluation.answering import answer_all
from training.evaluation.command import fitting
from training.evaluation.context import by_context, prefix_hits
from training.evaluation.conversation import Conversation
from training.evaluation.counted_rounds import counted_rounds
from training.evaluation.demo_tasks import SEED, transcripts
from training.evaluation.evaluate import Evaluation, Options
from training.evaluation.long_context import lengthen
from training.evaluation.prompts import Prompts
from training.evaluation.speed import measure_speed
from training.evaluation.threshold import ThresholdAlone
from training.tasks.catalog import tasks

SAMPLING = Sampling(max_tokens=24)


@pytest.fixture(scope="module")
def engine():
    target = tiny_target(4096)
    return make_engine(target, tiny_dspark(target), Fixed(4), tokenizer=Tokenizer(ROOT / "models/demo/target"))


def chat(*questions, task="t"):
    return Conversation(task, questions[0], tuple(({"role": "user", "content": text},) for text in questions))


def text(words, task="t", **fields):
    return Conversation(task, words, text=words, **fields)


def test_rounds_add_up_to_the_answer_and_know_their_context(engine):
    found = answer_all(engine, "dspark", Fixed(4), [text(f"word {i}") for i in range(20)], SAMPLING).answers
    assert [each.conversation for each in found] == list(range(20))
    for answer in found:
        rounds = answer.rounds
        assert len(answer.token_ids) == 24
        assert rounds.position[0] == answer.prompt_len + 1
        assert rounds.position[-1] + rounds.emitted[-1] == answer.prompt_len + 24
        assert (rounds.emitted == rounds.accepted + 1).all()
        # Four drafts wherever there is room for them and the last token.
        left = answer.prompt_len + 24 - rounds.position
        assert (rounds.verified == np.clip(left - 1, 0, 4)).all()
        assert (rounds.asked == rounds.verified).all()
        assert np.abs(rounds.evidence[rounds.verified == 4]).min(1).all()
    assert not engine.has_work


def test_a_later_turn_holds_the_own_answer_and_finds_its_prefix(engine):
    asked = [chat(f"Question {i}, please?", "And then?") for i in range(3)]
    found = answer_all(engine, "dspark", Fixed(4), asked, SAMPLING).answers
    assert [(each.conversation, each.turn) for each in found] == [(i, turn) for i in range(3) for turn in (0, 1)]
    first, second = found[:2]
    prompts = Prompts(engine.tokenizer, engine.max_model_len)
    assert second.prompt_len == len(prompts.encode(asked[0], (first.text,)))
    hits = prefix_hits(found)
    assert hits[1].whole == sum(each.prompt_len for each in found if each.turn == 1)
    # All whole blocks of the first prompt at least, block size 4.
    assert hits[1].part >= sum(each.prompt_len // 4 * 4 for each in found if each.turn == 0) - 4 * 3
    # The first prompts share only what the template begins with.
    assert hits[0].part < hits[0].whole / 2


def test_runs_find_nothing_of_each_other(engine):
    asked = [text("the very same words in every run, long enough for blocks")]
    for _ in range(2):
        (answer,) = answer_all(engine, "dspark", Fixed(4), asked, SAMPLING).answers
        assert answer.num_cached == 0


def test_turns_that_outgrow_the_model_end_their_conversation(engine):
    long = " ".join(["word"] * 2 * engine.max_model_len)
    found = answer_all(engine, "dspark", Fixed(4), [chat("short", long)], SAMPLING)
    assert [each.turn for each in found.answers] == [0]
    assert found.too_long == ("short, turn 2",)


def test_what_does_not_fit_is_left_out_with_its_place(engine):
    long = text(" ".join(["word"] * 2 * engine.max_model_len))
    tool = Conversation("t", "here", (({"role": "tool", "content": "x"},),))
    kept, left_out = fitting(engine, [text("a"), long, tool], skips=True)
    assert [each.place for each in kept] == ["a"]
    assert left_out["longer than the context"] == (long.place,)
    assert left_out["refused by the chat template or the tokenizer"][0].startswith("here: messages[0].role")
    with pytest.raises(ConfigError, match="here: messages"):
        fitting(engine, [tool], skips=False)


def test_a_threshold_verifies_less_and_zero_verifies_all(engine):
    asked, verified = [text(f"word {i}") for i in range(8)], []
    for value in (0.0, 0.5, 1.0 - 1e-9):
        found = answer_all(engine, "dspark", ThresholdAlone(value, identity(4)), asked, SAMPLING).answers
        rounds = counted_rounds(found, 4, is_greedy=False).rounds
        verified.append(float(rounds.verified.mean()))
        confident = 1 / (1 + np.exp(-rounds.evidence)) >= value
        assert (rounds.verified == confident.cumprod(1).sum(1)).all()
    assert verified[0] == 4.0 > verified[1] > verified[2]


def test_prompts_are_lengthened_by_others_of_their_task(engine):
    prompts = Prompts(engine.tokenizer, engine.max_model_len)
    asked = [chat(f"Question number {i}?") for i in range(6)] + [text(f"some words {i} ", task="x") for i in range(6)]
    answers = {index: f"Answer number {index}." for index in range(12)}
    longer = lengthen(prompts, asked, answers, 90)
    lengths = [len(prompts.encode(each, ())) for each in longer]
    chats = [each for each in longer if each.text is None]
    assert len(chats) == 6
    assert all(len(prompts.encode(asked[0], ())) < length <= 90 for length in lengths)
    said = [message["content"] for message in chats[0].turns[0]]
    assert said[-1] == "Question number 0?"
    assert "Question number 1?" in said
    assert "Answer number 1." in said


def test_rounds_are_sorted_by_the_tokens_before_them(engine):
    found = answer_all(engine, "dspark", Fixed(4), [text("a"), text("b " * 130)], Sampling(max_tokens=40)).answers
    rounds = counted_rounds(found, 4, is_greedy=False).rounds
    cells = by_context("t", "dspark", 1.0, rounds, engine.max_model_len)
    assert [cell.low for cell in cells] == [0, 128]
    assert sum(cell.num_rounds for cell in cells) == len(rounds)


def test_speed_is_compared_prompt_by_prompt(engine):
    asked = [text(f"word {i}", task="ab"[i % 2]) for i in range(4)]
    rows = measure_speed(engine, ["dspark"], "fixed", asked, SAMPLING)
    assert [(row.task, row.num_prompts) for row in rows] == [("a", 2), ("b", 2), ("all", 4)]
    for row in rows:
        assert row.ratio.estimate == pytest.approx(row.tokens_per_s / row.off_tokens_per_s)
        assert row.tokens_per_s > 0


def test_right_answers_are_those_of_last_turns_by_kind(engine):
    asked = [
        text("a", is_right=lambda _: True, kind="new"),
        text("b", is_right=lambda _: False, kind="new"),
        text("c", is_right=lambda _: True, kind="old"),
        text("d"),
    ]
    evaluation = Evaluation(engine, ["dspark"], asked, Options((1.0,), 8), lambda _: None)
    evaluation.answer()
    (cell,) = evaluation.cells
    assert {kind: (share.part, share.whole) for kind, share in cell.right.items()} == {"new": (1, 2), "old": (1, 1)}


def test_sessions_of_the_demo_keep_the_recorded_answers_between_their_turns(engine):
    (session,) = transcripts(1)
    roles = [message["role"] for message in session.messages(("never", "shown", "here"))]
    assert session.num_turns == 4
    assert roles == ["system", "user", *["assistant", "user"] * 3]
    found = answer_all(engine, "dspark", Fixed(4), [session], Sampling(max_tokens=8)).answers
    hits = prefix_hits(found)
    # Each prompt holds the one before it, whose whole blocks are in the cache.
    assert [later.part > 0.8 * before.whole for before, later in pairwise(hits)] == [True] * 3


def test_the_last_answer_of_a_demo_session_is_judged():
    (session,) = transcripts(1)
    _, last = islice(tasks("code", SEED, "held_out"), 2)
    assert session.is_right is not None
    assert session.is_right(last.answer)
    assert not session.is_right("def nothing(): pass")
