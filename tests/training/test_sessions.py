"""Sessions: the target answers turn after turn, and a drafter learns from every answer."""

import itertools

import numpy as np
import pytest

from core.errors import DataError
from toys import tiny_config
from training.chatml import render_prompt
from training.recipe import Data, Run
from training.sessions import Session, load_sessions, save_sessions, write_sessions
from training.sources import demo_texts
from training.target import new_target
from training.tasks.catalog import part_of
from training.tasks.sessions import NUM_TASKS, sessions

END_ID = 2


@pytest.fixture
def tasks():
    return next(chosen for chosen in sessions(3, "train") if len(chosen) >= 3)[:3]


def test_the_same_seed_gives_the_same_sessions_of_several_tasks():
    first, again = (list(itertools.islice(sessions(5, "train"), 20)) for _ in range(2))
    assert first == again
    assert {len(chosen) for chosen in first} <= set(range(NUM_TASKS[0], NUM_TASKS[1] + 1))
    assert len({task.domain for chosen in first for task in chosen}) == 3


@pytest.mark.parametrize("part", ["train", "held_out"])
def test_all_tasks_of_a_session_are_of_its_part(part):
    chosen = [task for session in itertools.islice(sessions(1, part), 50) for task in session]
    assert {part_of(task) for task in chosen} == {part}


def test_a_session_is_rendered_as_serving_does_and_its_answers_are_marked(demo_tokenizer, tasks):
    session, messages = Session(demo_tokenizer, tasks, 1.0), []
    for task in tasks:
        prompt = session.ask(2048)
        messages += task.messages
        assert prompt.ids == demo_tokenizer.encode(render_prompt(messages)).ids
        session.take([*demo_tokenizer.encode(task.answer).ids, END_ID], END_ID)
        messages.append(("assistant", task.answer))
    assert session.ask(2048) is None
    text = session.text()
    learnt = demo_tokenizer.decode(text.tokens[text.mask].tolist(), skip_special_tokens=False)
    assert learnt == "".join(f"{task.answer}<|im_end|>" for task in tasks)


def test_an_answer_without_an_end_is_the_last_of_its_session(demo_tokenizer, tasks):
    session = Session(demo_tokenizer, tasks, 1.0)
    assert session.ask(2048) is not None
    session.take([5, 6, 7], END_ID)
    assert session.ask(2048) is None


def test_a_question_whose_answer_would_not_fit_is_not_asked(demo_tokenizer, tasks):
    session = Session(demo_tokenizer, tasks, 1.0)
    assert session.ask(20) is None


def test_written_sessions_come_back_as_they_were(demo_tokenizer, tmp_path):
    target = new_target(tiny_config(4096, layers=2), seed=0)
    texts = write_sessions(target, demo_tokenizer, "train", 0, 40, 700, 2)
    assert sum(text.mask.sum() for text in texts) >= 40
    save_sessions(tmp_path / "sessions.safetensors", texts)
    for one, other in zip(texts, load_sessions(tmp_path / "sessions.safetensors"), strict=True):
        assert np.array_equal(one.tokens, other.tokens)
        assert np.array_equal(one.mask, other.mask)


def test_rows_too_short_for_a_session_are_told(demo_tokenizer):
    target = new_target(tiny_config(4096, layers=2), seed=0)
    with pytest.raises(DataError, match=r"no session fits into 64 tokens; raise data\.row_len"):
        write_sessions(target, demo_tokenizer, "train", 0, 40, 64, 2)


def test_the_demos_text_holds_sessions_in_the_share_that_the_recipe_asks_for(demo_tokenizer, tmp_path):
    target, library = new_target(tiny_config(4096, layers=2), seed=0), [np.arange(4, 400, dtype=np.int32)]
    for share, is_there in ((0.0, False), (0.5, True)):
        work = tmp_path / str(share)
        demo_texts(
            Data("demo", row_len=512, text_tokens=8, session_share=share),
            Run(),
            target,
            "of the target",
            demo_tokenizer,
            library,
            work,
            2,
        )
        assert (work / "sessions.safetensors").exists() is is_there


def test_texts_that_another_target_wrote_are_not_taken(demo_tokenizer, tmp_path):
    target, library = new_target(tiny_config(4096, layers=2), seed=0), [np.arange(4, 400, dtype=np.int32)]
    data = Data("demo", row_len=512, text_tokens=8, session_share=0.0)
    first, again = (demo_texts(data, Run(), target, "one", demo_tokenizer, library, tmp_path, 2) for _ in range(2))
    assert all(np.array_equal(a.tokens, b.tokens) for a, b in zip(first, again, strict=True))
    with pytest.raises(DataError, match=rf"texts that another target wrote .* remove {tmp_path}"):
        demo_texts(data, Run(), target, "other", demo_tokenizer, library, tmp_path, 2)
    (tmp_path / "written_by.json").unlink()
    with pytest.raises(DataError, match="does not say which target wrote its texts"):
        demo_texts(data, Run(), target, "one", demo_tokenizer, library, tmp_path, 2)
