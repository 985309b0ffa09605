"""`specd calibrate`: what is recorded, fitted, judged and written."""

import json

import numpy as np
import pytest
from msgspec.structs import replace
from rich.console import Console

from cli.calibrate import is_demo
from cli.main import main
from core.config import DSparkSettings, EngineSettings, Settings
from core.errors import ConfigError
from core.planning import Calibration
from core.reliability import area_under_curve
from core.types import Sampling
from engine.build import build_engine
from layers import ROOT
from models.calibration_file import read_calibration
from models.tokenizer import Tokenizer
from paths import FIXTURES
from policies.calibration_fit import identity, survivals
from policies.fixed import Fixed
from tests.policies.drafters import G, SyntheticDrafter
from toys import make_engine, tiny_dspark, tiny_target
from training.calibrate import RAW, Task, calibrate, draw, fit_all, judge
from training.evaluation.conversation import Conversation
from training.full_rounds import PROMPTS, Question, RecordedRounds, read_questions, record

TRUE = Calibration((0.5, 0.8, 0.6, 0.5), (0.0,) * G)
PER_REQUEST = 40


def synthetic(num_rounds=8000, seed=0):
    """Rounds of a drafter whose evidence promises too much, with the questions they answer."""
    evidence, chance, accepted = SyntheticDrafter(TRUE, seed=seed).rounds(num_rounds)
    question = np.arange(num_rounds) // PER_REQUEST
    questions = [
        ask("math" if i % 2 else "chat", "?", Sampling(temperature=(1.0, 0.7)[i // 2 % 2]))
        for i in range(num_rounds // PER_REQUEST)
    ]
    return RecordedRounds(question, evidence, np.full_like(accepted, G), accepted, chance), questions


def ask(source, text, sampling, *, is_fitted=True):
    return Question(Conversation(source, "here", text=text), sampling, is_fitted)


def write_prompts(path, **sources):
    path.write_text(json.dumps({name: {"max_tokens": 40, "prompts": texts} for name, texts in sources.items()}))
    return path


def test_fits_are_better_than_raw_evidence_on_rounds_they_have_not_seen():
    (rounds, _), (other, questions) = synthetic(), synthetic(seed=1)
    judged = {name: judge(calibration, other, questions) for name, calibration in fit_all(rounds).items()}
    for name in ("temperature", "logistic"):
        for after, before in zip(judged[name].survival, judged[RAW].survival, strict=True):
            assert after.error < 0.5 * before.error
            assert after.brier < before.brier
        assert judged[name].ratio.low < 1.0 < judged[name].ratio.high
    assert max(each.error for each in judged["logistic"].conditional) < 0.02
    assert judged[RAW].ratio.low > 1.02
    assert set(judged[RAW].by_source) == {"math", "chat"}
    assert set(judged[RAW].by_temperature) == {"0.7", "1"}


def test_questions_take_turns_by_source_then_temperature_then_use(tmp_path):
    path = write_prompts(tmp_path / "p.json", a=[f"a{i}" for i in range(5)], b=[f"b{i}" for i in range(9)])
    found = read_questions([path], 512)
    assert [question.conversation.text for question in found[:4]] == ["a0", "b0", "a1", "b1"]
    assert [question.sampling.temperature for question in found] == [1.0, 1.0, 0.7, 0.7] * 2 + [1.0, 1.0] + [
        0.7,
        1.0,
        0.7,
        1.0,
    ]
    assert [question.is_fitted for question in found[:10]] == [True] * 4 + [False] * 4 + [True] * 2
    assert [question.source for question in found[10:]] == ["b"] * 4


def test_chats_of_any_task_file_can_be_asked_and_set_no_limit_of_their_own(tmp_path, engine):
    (tmp_path / "chats.jsonl").write_text(
        '{"turns": ["Hello"]}\n{"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9}\n'
    )
    found = read_questions([tmp_path], 33)
    assert {question.source for question in found} == {"chats"}
    assert sorted(question.sampling.max_tokens for question in found) == [9, 33]
    assert len(record(engine, "dspark", found, 1).accepted) >= 1


@pytest.mark.parametrize("text", ["", "[]", '{"a": {"prompts": []}}', '{"a": 1}'])
def test_a_file_that_holds_no_prompts_is_refused(tmp_path, text):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(ConfigError, match="must hold prompts as"):
        read_questions([tmp_path / "p.json"], 512)


@pytest.fixture(scope="module")
def engine():
    target = tiny_target(4096)
    return make_engine(target, tiny_dspark(target), Fixed(1), tokenizer=Tokenizer(ROOT / "models/demo/target"))


def asking(count):
    return [ask("a", f"word {i}", Sampling(max_tokens=30), is_fitted=bool(i % 2)) for i in range(count)]


def test_only_rounds_verified_in_full_are_recorded_with_whose_they_are(engine):
    rounds = record(engine, "dspark", asking(20), 100)
    assert len(rounds.accepted) >= 100
    assert rounds.evidence.shape == rounds.labels.shape == (len(rounds.accepted), 4)
    assert np.isin(rounds.question, np.arange(20)).all()
    assert (rounds.labels > 0).any(axis=1).all()
    assert set(rounds.accepted) <= set(range(5))
    assert not engine.has_work


def test_drafts_past_an_accepted_end_are_not_judged_as_in_an_evaluation():
    engine = build_engine(Settings(engine=EngineSettings(max_num_seqs=32, profile=False), drafter=DSparkSettings()))
    rounds = record(engine, "dspark", read_questions([PROMPTS], 512), 150)
    is_cut = rounds.judged < 7
    assert is_cut.any()
    assert (rounds.accepted[is_cut] == rounds.judged[is_cut]).all()
    assert (rounds.judged >= 1).all()


def test_what_was_never_asked_for_is_neither_fitted_nor_judged():
    rounds, questions = synthetic()
    # Half of the texts end with the second draft of a round, where it is kept.
    is_cut = (np.arange(len(rounds.accepted)) % 2 == 0) & (rounds.accepted >= 2)
    judged = np.where(is_cut, 2, rounds.judged)
    cut = replace(rounds, judged=judged, accepted=np.minimum(rounds.accepted, judged))
    # Past the end a drafter may say what it likes.
    past = judged[:, None] <= np.arange(G)
    other = replace(cut, evidence=np.where(past, -9.0, cut.evidence), labels=np.where(past, 0.0, cut.labels))
    assert fit_all(cut) == fit_all(other)
    (one, two) = (judge(identity(G), each, questions) for each in (cut, other))
    assert (one.survival, one.conditional, one.ratio) == (two.survival, two.conditional, two.ratio)
    assert [each.count for each in one.survival] == [8000, 8000, 8000 - is_cut.sum(), 8000 - is_cut.sum()]


def test_positions_that_no_round_judges_are_told():
    rounds, questions = synthetic()
    with pytest.raises(ConfigError, match="8000 rounds judge too few drafts of some position; ask for more --rounds"):
        judge(identity(G), replace(rounds, accepted=np.minimum(rounds.accepted, 1)), questions)


def test_too_few_prompts_are_told(engine):
    with pytest.raises(ConfigError, match=r"2 prompts gave .* of 1000 rounds.*fewer with --rounds"):
        record(engine, "dspark", asking(2), 1000)


def test_a_diagram_is_drawn_of_all_sources_and_of_each(tmp_path):
    rounds, questions = synthetic()
    fits = fit_all(rounds)
    draw(tmp_path / "d.png", rounds, questions, (fits[RAW], fits["temperature"]), "caption", Console(quiet=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.png", "d_chat.png", "d_math.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())


def test_the_error_of_a_source_is_that_of_its_own_rounds():
    rounds, questions = synthetic()
    judged = judge(identity(G), rounds, questions)
    math = np.array([question.source for question in questions])[rounds.question] == "math"
    alone = judge(identity(G), rounds.of(math), questions)
    assert judged.error_by_source["math"] == pytest.approx(np.mean([each.error for each in alone.survival]))
    assert judged.error_by_source["math"] > 0.02


def test_it_writes_what_the_engine_reads(tmp_path):
    prompts = json.loads((ROOT / "bench" / "prompts" / "demo.json").read_text())
    path = write_prompts(tmp_path / "p.json", **{name: each["prompts"][:16] for name, each in prompts.items()})
    settings = Settings(engine=EngineSettings(max_num_seqs=16, profile=False), drafter=DSparkSettings())
    task = Task(settings, 100, (path,), "logistic", tmp_path / "calibration.json", tmp_path / "report.json")
    report = calibrate(task, Console(quiet=True))
    assert read_calibration(tmp_path, 7).slope == pytest.approx(report.judged["logistic"].calibration.slope, abs=1e-6)
    assert json.loads((tmp_path / "report.json").read_text())["rounds_judged"] == report.rounds_judged > 10


def test_the_demos_margins_tell_accepted_drafts_from_rejected_ones():
    engine = build_engine(Settings(engine=EngineSettings(max_num_seqs=32, profile=False), drafter=DSparkSettings()))
    network = engine.memory.speculators["dspark"].drafter.network
    network.config = replace(network.config, enable_confidence_head=False)
    rounds = record(engine, "dspark", read_questions([PROMPTS], 512), 300)
    # Measured on 13800 rounds: 0.745 for the first draft, 0.836 for the first three.
    assert area_under_curve(rounds.evidence[:, 0], rounds.accepted > 0) > 0.62
    assert area_under_curve(survivals(rounds.evidence, identity(7))[:, 2], rounds.accepted > 2) > 0.7


def test_no_drafter_has_nothing_to_calibrate(capsys):
    assert main(["calibrate", "--drafter", "none"]) == 2
    assert "nothing to calibrate" in capsys.readouterr().err


def test_a_target_without_prompts_of_its_own_is_not_asked_the_demos(capsys):
    assert main(["calibrate", "--target", str(FIXTURES / "target_qwen3"), "--drafter", "ngram"]) == 2
    said = capsys.readouterr().err
    assert "--prompts is missing" in said
    assert "held_out.jsonl" in said


def test_the_demos_folder_is_the_demo_as_well():
    assert is_demo("demo")
    assert is_demo(str(ROOT / "models" / "demo" / "target"))
    assert not is_demo("Qwen/Qwen3-4B")
