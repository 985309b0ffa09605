"""Answers of a running service: each once, whatever stops the run, and with the ids that the target wrote."""

import asyncio
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from cli.main import main
from core.errors import DataError, QueueError
from core.types import FinishReason
from models.tokenizer import Tokenizer
from service.main import free_port
from tests.service.fakes import TEXT, FakeEngine, running, until_true
from training.data import answer_folder
from training.data.generate import Progress, Sampling, Work, generate
from training.data.lines import Problems
from training.data.prepare import Choices, prepare
from training.shards import read_shards

ROOT = Path(__file__).parents[3]
EIGHT = Sampling(max_tokens=8)
SPOKEN = TEXT.encode()[:8].decode(errors="replace")


class EndingEngine(FakeEngine):
    """Ends its answers by itself, as long as they may be."""

    def _advance(self, request, done):
        emission = super()._advance(request, done)
        reason = emission.finish_reason and FinishReason.STOP
        return msgspec.structs.replace(emission, finish_reason=reason)


def write(path, lines):
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def lines_of(folder):
    paths = sorted(folder.glob("answers-*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_bytes().splitlines(True) if line.endswith(b"\n")]


def keys_of(folder):
    return sorted(line["key"] for line in lines_of(folder))


async def run(sources, output, url, sampling=EIGHT, **more):
    progress, told = Progress(), []
    problems = Problems(told.append)
    await generate(Work([sources], output, url, **more), sampling, problems, progress, told.append)
    return progress, told


async def test_every_turn_is_answered_anew_after_the_answers_before_it(settings, tmp_path):
    chat = [("system", "s"), ("human", "one"), ("gpt", "old"), ("human", "two"), ("gpt", "older")]
    source = write(
        tmp_path / "x.jsonl",
        [
            {"conversations": [{"from": who, "value": text} for who, text in chat]},
            {"turns": ["one", "two"], "kind": "k"},
        ],
    )
    async with running(settings, EndingEngine()) as service:
        await run(source, tmp_path / "out", service.url, concurrency=1)
    first, second = lines_of(tmp_path / "out")
    assert [one["content"] for one in first["conversations"]] == ["s", "one", SPOKEN, "two", SPOKEN]
    assert [one["content"] for one in second["conversations"]] == ["one", SPOKEN, "two", SPOKEN]
    assert second["kind"] == "k"
    assert [bytes(one["answer_ids"]) for one in first["exchanges"]] == [TEXT.encode()[:8]] * 2
    assert bytes(second["exchanges"][1]["prompt_ids"]).decode() == f"<user>one<assistant>{SPOKEN}<user>two>"


async def test_answers_that_call_tools_stay_and_what_follows_them_is_answered(settings, tmp_path):
    called = {"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]}
    messages = [{"role": "user", "content": "q"}, called, {"role": "user", "content": "r"}]
    source = write(tmp_path / "x.jsonl", [{"messages": messages}])
    async with running(settings, EndingEngine()) as service:
        _, told = await run(source, tmp_path / "out", service.url)
    # The calls are sent as they stood; this server finds fault with their shape, in its own words.
    assert "tool_calls" in told[0]


async def test_an_answer_cut_short_is_the_last_of_its_conversation(settings, tmp_path):
    source = write(tmp_path / "x.jsonl", [{"turns": ["one", "two"]}])
    async with running(settings, FakeEngine()) as service:
        await run(source, tmp_path / "out", service.url)
    (line,) = lines_of(tmp_path / "out")
    assert [one["content"] for one in line["conversations"]] == ["one", SPOKEN]
    assert line["exchanges"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("second", ["two" * 200, "\0"], ids=["beyond the context", "refused by the engine"])
async def test_what_was_answered_before_a_turn_is_refused_is_written_and_not_asked_again(settings, tmp_path, second):
    source = write(tmp_path / "x.jsonl", [{"turns": ["one", second, "three"]}])
    engine = EndingEngine()
    async with running(settings, engine) as service:
        progress, told = await run(source, tmp_path / "out", service.url)
        asked = len(engine.seen)
        again, _ = await run(source, tmp_path / "out", service.url)
    (line,) = lines_of(tmp_path / "out")
    assert [one["content"] for one in line["conversations"]] == ["one", SPOKEN]
    assert len(line["exchanges"]) == 1
    assert (progress.num_answered, progress.num_refused, again.num_before) == (1, 0, 1)
    assert len(engine.seen) == asked
    assert told[0].startswith(f"{source}:1: ends after answer 1, the server refuses more: ")


async def test_a_refusal_that_says_nothing_of_the_turn_does_not_cut_a_conversation_short(tmp_path):
    statuses = iter([200, 401])

    async def answer(request):
        if (status := next(statuses)) != 200:
            return web.json_response({}, status=status)
        choice = {"message": {"content": "yes"}, "token_ids": [1], "finish_reason": "stop"}
        return web.json_response({"choices": [choice], "prompt_token_ids": [2, 3]})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    async with TestServer(app) as server:
        source = write(tmp_path / "x.jsonl", [{"turns": ["one", "two"]}])
        progress, _ = await run(source, tmp_path / "out", str(server.make_url("")))
    assert (progress.num_answered, progress.num_refused, lines_of(tmp_path / "out")) == (0, 1, [])


async def test_what_is_asked_twice_is_answered_once_and_samples_are_told_apart(settings, tmp_path):
    ask = {"turns": ["one"]}
    source = write(tmp_path / "x.jsonl", [ask, ask, {"prompt": "go on"}, {"text": "nothing to answer"}])
    engine = EndingEngine()
    async with running(settings, engine) as service:
        progress, _ = await run(source, tmp_path / "out", service.url, Sampling(max_tokens=4, samples=3, seed=1))
    assert (progress.num_wanted, progress.num_answered, len(set(keys_of(tmp_path / "out")))) == (6, 6, 6)
    assert len({request.sampling.seed for request in engine.seen}) == 6


async def test_a_run_that_is_killed_loses_only_what_was_in_flight(settings, tmp_path):
    source = write(tmp_path / "x.jsonl", [{"turns": [f"question {number}"]} for number in range(60)])
    out = tmp_path / "out"
    engine = EndingEngine(step_s=0.02)
    async with running(settings, engine) as service:
        flags = ["--url", service.url, "--output", str(out), "--max-tokens", "8", "--concurrency", "4"]
        command = [sys.executable, "-m", "cli.main", "data", "generate", str(source), *flags]
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stderr=asyncio.subprocess.DEVNULL)
        await until_true(lambda: out.exists() and len(lines_of(out)) >= 8, 60)
        process.kill()
        await process.wait()
        whole = keys_of(out)
        # What a kill in the middle of a write would leave.
        with next(out.glob("answers-*")).open("a") as file:
            file.write('{"key": "ha')
        progress, _ = await run(source, out, service.url)
    assert 8 <= len(whole) < 60
    assert progress.num_before == len(whole)
    assert progress.num_answered == 60 - len(whole)
    assert len(set(keys_of(out))) == len(keys_of(out)) == 60


async def test_a_full_disk_ends_the_run_with_whole_lines_and_it_goes_on(settings, tmp_path, monkeypatch):
    source = write(tmp_path / "x.jsonl", [{"turns": [f"question {number}"]} for number in range(5)])
    written = []

    def full_after_two(descriptor, data):
        written.append(data)
        return os.write(descriptor, data if len(written) <= 2 else data[:20])

    async with running(settings, EndingEngine()) as service:
        with monkeypatch.context() as patched:
            disk = SimpleNamespace(write=full_after_two, fstat=os.fstat, ftruncate=os.ftruncate)
            patched.setattr(answer_folder, "os", disk)
            with pytest.raises(DataError, match="the disk is full; run it again"):
                await run(source, tmp_path / "out", service.url)
        left = (tmp_path / "out" / "answers-0001-of-0001.jsonl").read_bytes()
        assert left == b"".join(written[:2])
        await run(source, tmp_path / "out", service.url)
    assert len(set(keys_of(tmp_path / "out"))) == 5


async def test_several_workers_share_the_work_and_none_takes_anothers_place(settings, tmp_path):
    source = write(tmp_path / "x.jsonl", [{"turns": [f"question {number}"]} for number in range(40)])
    out = tmp_path / "out"
    async with running(settings, EndingEngine(step_s=0.005)) as service:
        runs = [asyncio.create_task(run(source, out, service.url, worker=(number, 3))) for number in (1, 2, 3)]
        await until_true(lambda: len(list(out.glob("answers-*"))) == 3)
        with pytest.raises(DataError, match="another process writes"):
            await run(source, out, service.url, worker=(2, 3))
        with pytest.raises(DataError, match="filled by 3 workers"):
            await run(source, out, service.url, worker=(1, 2))
        answered = [(await one)[0].num_answered for one in runs]
    assert sum(answered) == len(set(keys_of(out))) == len(lines_of(out)) == 40
    assert all(answered)


async def test_a_record_that_is_refused_is_told_and_the_others_are_answered(settings, tmp_path):
    source = write(tmp_path / "x.jsonl", [{"turns": ["one"]}, {"turns": ["\0"]}, "nonsense", {"turns": ["two"]}])
    async with running(settings, EndingEngine()) as service:
        progress, told = await run(source, tmp_path / "out", service.url)
    assert (progress.num_answered, progress.num_refused) == (2, 1)
    assert any(f"{source}:2: the server refuses it: zeros are refused" in line for line in told)
    assert any(f"{source}:3: not JSON" in line for line in told)


@pytest.mark.parametrize("status", [429, 503])
async def test_a_refusal_that_passes_is_waited_out_as_the_server_says(tmp_path, status):
    asked_at = []

    async def answer(request):
        asked_at.append(asyncio.get_running_loop().time())
        if len(asked_at) == 1:
            return web.json_response({}, status=status, headers={"Retry-After": "1"})
        choice = {"message": {"content": "yes"}, "token_ids": [1], "finish_reason": "stop"}
        return web.json_response({"choices": [choice], "prompt_token_ids": [2, 3]})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    async with TestServer(app) as server:
        source = write(tmp_path / "x.jsonl", [{"turns": ["one"]}])
        progress, _ = await run(source, tmp_path / "out", str(server.make_url("")))
    assert (progress.num_answered, progress.num_retries) == (1, 1)
    assert asked_at[1] - asked_at[0] >= 1.0


async def test_a_server_out_of_reach_ends_the_run_after_its_patience(tmp_path):
    source = write(tmp_path / "x.jsonl", [{"turns": ["one"]}])
    url = f"http://127.0.0.1:{free_port('127.0.0.1')}"
    with pytest.raises(QueueError, match=f"no answer from {url} for 0 s"):
        await run(source, tmp_path / "out", url, patience_s=0.0)


async def test_a_folder_made_with_other_flags_is_not_gone_on_with(settings, tmp_path):
    source = write(tmp_path / "x.jsonl", [{"turns": ["one"]}])
    async with running(settings, EndingEngine()) as service:
        await run(source, tmp_path / "out", service.url)
        with pytest.raises(DataError, match=r"other flags.*temperature"):
            await run(source, tmp_path / "out", service.url, Sampling(temperature=0.5))


async def test_what_is_generated_is_prepared_as_the_target_wrote_it(settings, tmp_path):
    source = write(tmp_path / "x.jsonl", [{"turns": ["one", "two"]}, {"prompt": "go on"}])
    async with running(settings, EndingEngine()) as service:
        await run(source, tmp_path / "out", service.url, concurrency=1)
    card = prepare([tmp_path / "out"], tmp_path / "model", tmp_path / "data", Choices(held_out=0.0), lambda _: None)
    tokenizer = Tokenizer(tmp_path / "model")
    # This template renders answers otherwise once they are history: each is learnt as it was asked for.
    assert [tokenizer.decode(one.tokens.tolist()) for one in read_shards(tmp_path / "data" / "train")] == [
        f"<user>one>{SPOKEN}",
        f"<user>one<assistant>{SPOKEN}<user>two>{SPOKEN}",
        f"go on{SPOKEN}",
    ]
    assert [int(one.mask.sum()) for one in read_shards(tmp_path / "data" / "train")] == [8, 8, 8]
    assert "document per answer" in card.warnings[0]


def test_impossible_flags_are_told(tmp_path, capsys):
    for flags in (["--worker", "3/2"], ["--worker", "two"], ["--concurrency", "0"]):
        assert main(["data", "generate", "x.jsonl", "--output", str(tmp_path / "out"), *flags]) == 2
    assert "--worker must be I/N with I in 1..N" in capsys.readouterr().err
