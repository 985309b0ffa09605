"""Every shape of training data is read; every bad line is told with its number and what would be right."""

import json

import pytest

from core.errors import DataError
from training.data.lines import MAX_TOLD, Problems, jsonl_files
from training.data.records import read_records

CHAT = [("user", "hi"), ("assistant", "hello")]


def read(path, content, *, are_fatal=False, max_bytes=1000):
    path.write_bytes(content if isinstance(content, bytes) else "\n".join(map(json.dumps, content)).encode())
    told = []
    problems = Problems(told.append, are_fatal=are_fatal)
    return list(read_records([path], problems, max_bytes)), told, problems


@pytest.mark.parametrize(
    "line",
    [
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]},
        {"conversations": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]},
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]},
                {"role": "assistant", "content": "hello"},
            ]
        },
    ],
)
def test_every_shape_of_a_conversation_reads_alike(tmp_path, line):
    (record,), told, _ = read(tmp_path / "chat.jsonl", [line])
    assert [(one.role, one.content) for one in record.messages] == CHAT
    assert (record.kind, record.number, told) == ("chat", 1, [])


def test_turns_text_and_recorded_answers_are_read(tmp_path):
    lines = [
        {"turns": ["one", "two"]},
        {"text": "plain", "kind": "library"},
        {"prompt": "p", "answer": "a", "prompt_ids": [1, 2], "answer_ids": [3], "finish_reason": "stop"},
    ]
    (turns, text, recorded), told, _ = read(tmp_path / "x.jsonl", lines)
    assert [(one.role, one.content) for one in turns.messages] == [("user", "one"), ("user", "two")]
    assert (text.kind, text.text) == ("library", "plain")
    assert (recorded.exchanges[0].prompt_ids, recorded.exchanges[0].answer_ids) == ((1, 2), (3,))
    assert told == []


def test_a_byte_order_mark_windows_line_ends_and_blank_lines_are_no_problem(tmp_path):
    records, told, _ = read(tmp_path / "x.jsonl", b'\xef\xbb\xbf{"text": "a"}\r\n\r\n   \n{"text": "b"}')
    assert [(one.text, one.number) for one in records] == [("a", 1), ("b", 4)]
    assert told == []


BAD = [
    (b"{", "not JSON"),
    (b"[1]", "must be a JSON object"),
    (b"null", "must be a JSON object"),
    (b'{"text": "\\ud83d"}', "surrogate"),
    (b'{"text": "a\\udc00b"}', "surrogate"),
    (b'{"text": "\xff"}', "not UTF-8"),
    (b'{"text": ' + b"[" * 900, "not JSON"),
    (b'{"text": "' + b"x" * 2000 + b'"}', "longer than 1000 bytes"),
    (b'{"text": 5}', "text must be text"),
    (b'{"text": " "}', "not empty"),
    (b'{"other": 1}', "must have one of conversations"),
    (b'{"turns": []}', "turns must be an array with something in it"),
    (b'{"turns": [1]}', "turns[0] must be text"),
    (b'{"conversations": []}', "something in it"),
    (b'{"messages": ["hi"]}', "messages[0] must be an object"),
    (b'{"messages": [{"role": "user", "content": "x"}], "exchanges": 5}', "exchanges must be an array, got 5"),
    (b'{"messages": [{"role": "user", "content": "x"}], "exchanges": true}', "exchanges must be an array, got True"),
    (b'{"messages": [{"role": "user", "content": "x", "tool_calls": 5}]}', "tool_calls must be an array of objects"),
    (b'{"messages": [{"role": "wizard", "content": "x"}]}', "role (or from) must be one of system"),
    (b'{"messages": [{"role": "user", "content": null}]}', "content (or value) must be text"),
    (b'{"messages": [{"role": "user", "content": [{"type": "image"}]}]}', "text parts only"),
    (b'{"prompt": "p", "answer": "a", "answer_ids": [-1]}', "answer_ids must be an array of token ids"),
    (b'{"prompt": "p", "answer": "a", "answer_ids": [true]}', "answer_ids must be an array of token ids"),
]


@pytest.mark.parametrize(("line", "reason"), BAD, ids=[reason for _, reason in BAD])
def test_a_bad_line_is_told_with_its_place_and_the_others_are_read(tmp_path, line, reason):
    path = tmp_path / "x.jsonl"
    records, told, problems = read(path, b'{"text": "a"}\n' + line + b'\n{"text": "b"}\n')
    assert [one.text for one in records] == ["a", "b"]
    assert problems.num == 1
    assert told[0].startswith(f"{path}:2: ")
    assert reason in told[0]


def test_a_bad_line_ends_all_where_it_is_fatal(tmp_path):
    with pytest.raises(DataError, match=r"x.jsonl:2: not JSON.*--bad-lines skip"):
        read(tmp_path / "x.jsonl", b'{"text": "a"}\nnonsense\n', are_fatal=True)


def test_many_bad_lines_are_counted_but_not_all_told(tmp_path):
    _, told, problems = read(tmp_path / "x.jsonl", b"nonsense\n" * 100)
    assert problems.num == 100
    assert len(told) == MAX_TOLD + 1


def test_a_whole_pair_of_surrogates_is_a_character(tmp_path):
    (record,), _, _ = read(tmp_path / "x.jsonl", b'{"text": "\\ud83d\\ude00"}')
    assert record.text == "😀"


def test_a_folder_stands_for_its_files_and_nothing_there_is_told(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.jsonl", "a.jsonl", "deep/c.jsonl", "notes.txt"):
        (tmp_path / name).write_text("")
    assert [path.name for path in jsonl_files([tmp_path])] == ["a.jsonl", "b.jsonl", "c.jsonl"]
    with pytest.raises(DataError, match="no file or folder"):
        jsonl_files([tmp_path / "missing"])
