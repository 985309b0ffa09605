"""Sources become shards: what is dropped is counted, no conversation is in both parts, and a stopped run goes on."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli.main import main
from core.errors import DataError
from models.tokenizer import Tokenizer
from training.data.held_out_lines import HELD_OUT_FILE
from training.data.prepare import Choices, prepare
from training.evaluation.task_files import Reading, read_tasks
from training.shards import INDEX_FILE, read_shards

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "models" / "demo" / "target"
SMALL = Choices(held_out=0.3, shard_tokens=2000)


def question(number):
    return f"Question {number * 7919 % 100_003}: what is {number} times {number + 3}, and why so, {number}?"


def chat(number, *more):
    first = [("user", question(number)), ("assistant", f"That is {number * (number + 3)}, as {number} shows.")]
    return {"conversations": [{"role": role, "content": content} for role, content in [*first, *more]]}


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run(sources, output, choices=SMALL, **more):
    told = []
    return prepare(sources, DEMO, output, choices, told.append, **more), told


def texts(folder):
    tokenizer = Tokenizer(DEMO)
    return [tokenizer.decode(one.tokens.tolist(), skip_special_tokens=False) for one in read_shards(folder)]


def test_every_record_is_in_one_part_and_the_card_adds_up(tmp_path):
    source = write(tmp_path / "math.jsonl", [chat(number) for number in range(200)])
    card, _ = run([source], tmp_path / "out")
    train, held_out = texts(tmp_path / "out" / "train"), texts(tmp_path / "out" / "held_out")
    assert len(set(train + held_out)) == len(train) + len(held_out) == 200
    assert 30 < len(held_out) < 95
    shown = json.loads((tmp_path / "out" / "card.json").read_text())
    assert shown["parts"]["train"]["kinds"]["math"]["documents"] == card.parts["train"].num_documents == len(train)
    assert sum(shown["parts"]["held_out"]["lengths"].values()) == len(held_out)
    assert shown["sources"][0]["sha256"] in (tmp_path / "out" / "card.md").read_text()


def test_a_conversation_and_the_same_gone_on_with_are_in_one_part(tmp_path):
    source = tmp_path / "chat.jsonl"
    longer = [chat(number, ("user", "Go on."), ("assistant", "word " * 40)) for number in range(40)]
    write(source, [chat(number) for number in range(40)] + longer)
    run([source], tmp_path / "out")
    openings = [
        {text.partition("assistant")[0] for text in texts(tmp_path / "out" / part)} for part in ("train", "held_out")
    ]
    assert not openings[0] & openings[1]
    assert len(openings[0] | openings[1]) == 40


def test_duplicates_and_near_duplicates_are_left_out_and_counted(tmp_path):
    answer = " ".join(f"step{index}" for index in range(80))
    lines = [chat(number, ("user", "Explain."), ("assistant", f"{number} {answer} {number}")) for number in range(2)]
    near = json.loads(json.dumps(lines[0]).replace("step40 ", "step forty "))
    card, _ = run([write(tmp_path / "x.jsonl", [*lines, lines[1], near])], tmp_path / "out")
    assert card.duplicates == {"duplicate": 1, "near-duplicate": 1} or card.duplicates["near-duplicate"] == 2
    kept, _ = run([tmp_path / "x.jsonl"], tmp_path / "all", Choices(near_duplicate=2.0))
    assert sum(part.num_documents for part in kept.parts.values()) == 3


def words(seed, count):
    return " ".join(f"{seed}word{(seed * 31 + index * index) % 997}" for index in range(count))


def num_near(tmp_path, lines):
    card, _ = run([write(tmp_path / "x.jsonl", lines)], tmp_path / "out")
    return card.duplicates["near-duplicate"]


def test_unlike_answers_about_one_long_document_are_all_kept(tmp_path):
    document = words(1, 600)
    lines = [
        {"messages": [{"role": "user", "content": f"{document}\n\n{asked}"}, {"role": "assistant", "content": answer}]}
        for asked, answer in (
            ("Who signed it, and when?", words(2, 40)),
            ("What does it cost to end it early?", words(3, 40)),
        )
    ]
    assert num_near(tmp_path, lines) == 0


def test_like_answers_to_like_questions_are_near_duplicates_whatever_stands_before(tmp_path):
    answer = {"role": "assistant", "content": words(2, 60)}
    lines = [
        {"messages": [{"role": "user", "content": f"{words(seed, 200)} {words(9, 60)} Who signed it?"}, answer]}
        for seed in (1, 3)
    ]
    assert num_near(tmp_path, lines) == 1


@pytest.mark.parametrize("shape", ["messages", "prompt"])
def test_samples_of_one_record_are_kept_however_alike_unless_they_are_the_same(tmp_path, shape):
    answers = [f"{words(2, 80)} {end}" for end in ("a", "b", "c", "c")]
    asked = {"role": "user", "content": "Who?"}
    lines = [
        {"key": f"{'ab' * 16}-{sample}"}
        | (
            {"messages": [asked, {"role": "assistant", "content": answer}]}
            if shape == "messages"
            else {"prompt": "Who?", "answer": answer}
        )
        for sample, answer in enumerate(answers)
    ]
    card, _ = run([write(tmp_path / "x.jsonl", lines)], tmp_path / "out")
    assert card.duplicates == {"duplicate": 1, "near-duplicate": 0}
    unknown = [{name: value for name, value in line.items() if name != "key"} for line in lines]
    card, _ = run([write(tmp_path / "y.jsonl", unknown)], tmp_path / "other")
    assert card.duplicates == {"duplicate": 1, "near-duplicate": 2}


def test_bad_lines_and_dropped_records_are_told_and_in_the_card(tmp_path):
    source = tmp_path / "x.jsonl"
    source.write_text(f"{json.dumps(chat(1))}\nnonsense\n" + json.dumps({"turns": ["only asked"]}) + "\n")
    card, told = run([source], tmp_path / "out")
    assert any(f"{source}:2: not JSON" in line for line in told)
    assert card.bad_lines == {str(source): 1}
    assert sum(sum(part.dropped.values()) for part in card.parts.values()) == 1
    with pytest.raises(DataError, match=r"x\.jsonl:2"):
        run([source], tmp_path / "other", are_fatal=True)


def asked_of(folder):
    return [json.loads(line) for line in (folder / HELD_OUT_FILE).read_text().splitlines()]


def test_what_is_held_out_lies_there_to_be_asked_and_nothing_else(tmp_path):
    only_asked = [{"turns": [f"only asked, {number}"]} for number in range(40)]
    recorded = [
        {"prompt": f"Go on, {number}", "answer": "as it was said", "prompt_ids": [7, number], "answer_ids": []}
        for number in range(40)
    ]
    plain = [{"text": f"plain text number {number}"} for number in range(40)]
    tooled = [chat(number) | {"tools": [{"name": "t"}], "kind": "tooled"} for number in range(100, 140)]
    lines = [*only_asked, *(chat(number) for number in range(40)), *recorded, *plain, *tooled]
    run([write(tmp_path / "x.jsonl", lines)], tmp_path / "out")
    found = read_tasks([tmp_path / "out" / HELD_OUT_FILE], Reading()).conversations
    train = "\n".join(texts(tmp_path / "out" / "train"))
    assert len(found) == len(asked_of(tmp_path / "out")) == len(texts(tmp_path / "out" / "held_out"))
    assert {each.task for each in found} == {"x", "tooled"}
    assert {len(each.tools) for each in found if each.task == "tooled"} == {1}
    assert all(each.prompt_ids[0] == 7 for each in found if each.is_rendered)
    for each in found:
        said = each.messages(())[-1]["content"] if each.turns else each.text
        assert f"{said}\n" not in train.replace("<", "\n")
    shapes = {
        next(name for name in ("messages", "prompt", "text") if name in line) for line in asked_of(tmp_path / "out")
    }
    assert shapes == {"messages", "prompt", "text"}


def test_where_nothing_is_held_out_there_is_nothing_to_ask(tmp_path):
    source = write(tmp_path / "x.jsonl", [chat(1)])
    run([source], tmp_path / "out", Choices(held_out=0.0))
    assert not (tmp_path / "out" / HELD_OUT_FILE).exists()


def test_what_is_held_out_is_no_source_of_the_same_folder(tmp_path):
    write(tmp_path / "x.jsonl", [chat(number) for number in range(20)])
    for _ in range(2):
        card, _ = run([tmp_path], tmp_path / "out")
        assert [Path(one.path).name for one in card.sources] == ["x.jsonl"]


def whole(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_run_that_the_disk_stopped_goes_on_and_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    asked = [{"turns": [f"only asked, {number}"]} for number in range(8)]
    source = write(tmp_path / "x.jsonl", asked + [chat(number) for number in range(200)])
    run([source], tmp_path / "whole")
    written, real = [], Path.replace

    def full_after_five(path, target):
        written.append(path)
        if len(written) > 5:
            raise OSError(28, "No space left on device")
        return real(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full_after_five)
        with pytest.raises(DataError, match=r"No space left.*gone on with"):
            run([source], tmp_path / "stopped")
    left = sum(len(read_shards(path.parent)) for path in (tmp_path / "stopped").rglob(INDEX_FILE))
    assert left > 0
    run([source], tmp_path / "stopped")
    assert whole(tmp_path / "stopped") == whole(tmp_path / "whole")


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_and_ends_as_if_it_had_not_been(tmp_path):
    source = write(tmp_path / "x.jsonl", [chat(number) for number in range(900)])
    run([source], tmp_path / "whole")
    flags = ["--held-out", "0.3", "--output", str(tmp_path / "killed")]
    code = (
        "import training.data.prepare as p, cli.data as d, sys\n"
        "from cli.main import main\n"
        "d.Choices = lambda *given: p.Choices(*given, shard_tokens=2000)\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, "data", "prepare", str(source), *flags], cwd=ROOT, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 120
        while len(list((tmp_path / "killed").rglob("*.safetensors"))) < 5 and time.monotonic() < deadline:
            time.sleep(0.002)
        process.kill()
    assert process.returncode == -9
    before = len(list((tmp_path / "killed").rglob("*.safetensors")))
    run([source], tmp_path / "killed")
    assert 5 <= before < len(list((tmp_path / "killed").rglob("*.safetensors")))
    assert whole(tmp_path / "killed") == whole(tmp_path / "whole")


def test_other_sources_or_choices_are_not_mixed_into_a_folder(tmp_path):
    source = write(tmp_path / "x.jsonl", [chat(1)])
    run([source], tmp_path / "out")
    with pytest.raises(DataError, match="other flags"):
        run([source], tmp_path / "out", Choices(max_len=100))
    write(source, [chat(2)])
    with pytest.raises(DataError, match="other sources"):
        run([source], tmp_path / "out")


def test_the_command_prepares_and_tells_impossible_flags(tmp_path, capsys):
    source = write(tmp_path / "x.jsonl", [chat(number) for number in range(20)])
    assert main(["data", "prepare", str(source), "--output", str(tmp_path / "out"), "--held-out", "0.5"]) == 0
    said = capsys.readouterr().out
    assert "documents" in said
    assert f"specd eval {tmp_path / 'out' / HELD_OUT_FILE} --target demo" in said
    assert f"--prompts {tmp_path / 'out' / HELD_OUT_FILE}" in said
    assert main(["data", "prepare", str(source), "--output", str(tmp_path / "out"), "--held-out", "7"]) == 2
    assert "--held-out must be in 0..1" in capsys.readouterr().err
    assert main(["data", "prepare", str(tmp_path / "no"), "--output", str(tmp_path / "out")]) == 1
