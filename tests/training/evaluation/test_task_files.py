"""Task files: what rows mean, what is refused, and by which line."""

import json
import random

import pytest

from core.errors import ConfigError, DataError
from training.evaluation.task_files import Reading, read_tasks

ALL_TURNS = Reading(every_turn=True)
USER, ASSISTANT, TOOL = ({"role": role, "content": role} for role in ("user", "assistant", "tool"))


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path, reading=ALL_TURNS):
    return read_tasks([path], reading).conversations


def test_a_folder_of_deepspecs_is_a_task_per_file_of_their_first_turns(tmp_path):
    write(tmp_path / "gsm8k.jsonl", {"turns": ["How many?"]})
    write(tmp_path / "mt-bench.jsonl", {"turns": ["First", "Second"]})
    (tmp_path / "README.md").write_text("no task")
    gsm8k, bench = read(tmp_path, Reading())
    assert (gsm8k.task, bench.task) == ("gsm8k", "mt-bench")
    assert bench.turns == (({"role": "user", "content": "First"},),)


def test_rows_come_in_deepspecs_shuffled_order(tmp_path):
    path = write(tmp_path / "a.jsonl", *({"prompt": f"{i}"} for i in range(50)))
    order = list(range(50))
    random.Random(980406).shuffle(order)
    assert [each.text for each in read(path, Reading(limit=7))] == [str(i) for i in order[:7]]


def test_of_turns_all_are_asked_when_wanted_with_the_targets_own_answers_between(tmp_path):
    (found,) = read(write(tmp_path / "a.jsonl", {"turns": ["x", "y"]}))
    assert found.num_turns == 2
    assert [message["content"] for message in found.messages(("said",))] == ["x", "said", "y"]


def test_a_transcript_is_asked_where_an_answer_stands_and_keeps_what_was_recorded(tmp_path):
    rows = {"messages": [USER, ASSISTANT, TOOL, ASSISTANT, USER]}
    (found,) = read(write(tmp_path / "a.jsonl", rows))
    assert found.num_turns == 3
    assert found.messages(()) == [USER]
    assert found.messages(("never shown",)) == [USER, ASSISTANT, TOOL]
    assert found.messages(("a", "b")) == rows["messages"]
    (last,) = read(tmp_path / "a.jsonl", Reading())
    assert last.messages(()) == rows["messages"]


def test_a_transcript_that_ends_with_an_answer_is_asked_for_it(tmp_path):
    (found,) = read(write(tmp_path / "a.jsonl", {"conversations": [USER, ASSISTANT]}), Reading())
    assert found.messages(()) == [USER]


def test_share_gpt_names_its_speakers_otherwise(tmp_path):
    rows = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]}
    (found,) = read(write(tmp_path / "a.jsonl", rows))
    assert found.messages(()) == [{"role": "user", "content": "Hi"}]


def test_a_text_is_gone_on_with_from_its_middle_a_prompt_from_its_end(tmp_path):
    path = write(tmp_path / "a.jsonl", {"text": "abcdef", "kind": "t"}, {"prompt": "abcdef", "kind": "p"})
    assert {each.task: each.text for each in read(path)} == {"t": "abc", "p": "abcdef"}


def test_a_row_may_name_its_task_its_limit_and_its_right_answer(tmp_path):
    (found,) = read(
        write(tmp_path / "a.jsonl", {"turns": ["6*7"], "kind": "sums", "max_tokens": 5, "answer": "#### 42"})
    )
    assert (found.task, found.max_tokens) == ("sums", 5)
    assert found.is_right("So it is 42")
    assert not found.is_right("So it is 41")


def test_an_answer_in_words_is_not_judged(tmp_path):
    (found,) = read(write(tmp_path / "a.jsonl", {"turns": ["Who?"], "answer": "Ada"}))
    assert found.is_right is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not JSON"),
        ("[]", "must be a JSON object"),
        ('{"answer": 4}', "must have one of conversations, messages, turns, prompt, text"),
        ('{"turns": []}', "turns must be an array with something in it"),
        ('{"turns": [7]}', "turns[0] must be text"),
        ('{"messages": [{"content": "x"}]}', "messages[0]: role"),
        ('{"messages": [{"role": "user", "content": [1]}]}', "content may hold text parts only"),
        ('{"messages": [{"role": "assistant", "content": "x"}]}', "nothing before its answer"),
        ('{"text": "x"}', "text is too short to go on with"),
        ('{"turns": ["a"], "max_tokens": 0}', "max_tokens"),
        ('{"turns": ["a"], "tests": ["f()"]}', "tests"),
    ],
)
def test_a_bad_line_is_told_by_its_number_or_left_out(tmp_path, line, said):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"prompt": "good"}}\n\n{line}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:3: ") as refused:
        read(path, Reading())
    assert said in str(refused.value)
    found = read_tasks([path], Reading(skips_bad_lines=True))
    assert [each.text for each in found.conversations] == ["good"]
    assert found.num_bad == len(found.bad_lines) == 1
    assert found.bad_lines[0].startswith(f"{path}:3: ")


def test_specds_own_prompt_files_are_texts_by_task(tmp_path):
    path = tmp_path / "p.json"
    path.write_text('{"chat": {"max_tokens": 4, "prompts": ["a", "b", "c"]}}')
    found = read(path, Reading(limit=2))
    assert [(each.task, each.text, each.max_tokens) for each in found] == [("chat", "a", 4), ("chat", "b", 4)]


def test_files_of_no_known_kind_empty_ones_and_missing_ones_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("x")
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "folder").mkdir()
    for name, said in (
        ("a.csv", "no known kind"),
        ("empty.jsonl", "no line that can be asked"),
        ("folder", r"no \*\.jsonl file"),
        ("none.jsonl", "there is no file or folder"),
    ):
        with pytest.raises((ConfigError, DataError), match=said):
            read(tmp_path / name)
