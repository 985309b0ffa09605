"""What the operator asked to keep is kept, whole and redacted, and no request ever waits for it or fails of it."""

import asyncio
import json
import os
import threading

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from core.config import Settings
from core.config_file import load_settings
from core.errors import ConfigError
from core.observing import RecordingSettings
from core.recorded_request import VERSION, RecordedRequest
from core.registry import REDACTORS
from core.types import Sampling
from service.recording import recording
from service.recording.recording import BEHIND, DISK, REDACTION, Recorder
from service.recording.recording_files import RecordingFiles
from service.recording.redaction import redact_contacts
from tests.service.fakes import (
    BYTES,
    FakeEngine,
    fake_settings,
    running,
    spoken,
    until,
    worker,
    write_tokenizer,
)
from tests.service.jobs import append, end_of, new_job, take
from training.data.prepare import Choices, prepare
from training.shards import read_shards


def upside_down(text):
    return text[::-1]


def fails(text):
    raise ValueError(f"cannot redact {text}")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "recorded"


@pytest.fixture
def settings(redis_url, tmp_path, folder):
    """Settings of a service that records in `folder`."""
    return recorded_to(fake_settings(redis_url, tmp_path / "model"), folder=str(folder))


def recorded_to(settings: Settings, **fields):
    return msgspec.structs.replace(settings, recording=RecordingSettings(**fields))


def records_in(folder):
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_bytes().splitlines()]


async def metric(service, name):
    async with service.http.get(f"{service.url}/metrics") as response:
        families = text_string_to_metric_families(await response.text())
    return {
        one.labels.get("reason", ""): one.value for family in families for one in family.samples if one.name == name
    }


async def test_nothing_is_recorded_unless_a_folder_is_named(settings, folder):
    async with running(recorded_to(settings), FakeEngine()) as service:
        await service.post(prompt="abc", max_tokens=5)
        assert await metric(service, "specd_recorded_answers_total") == {}
    assert not folder.exists()


async def test_an_answer_is_recorded_as_text_and_as_the_tokens_that_the_target_saw_and_wrote(settings, folder):
    async with running(settings, FakeEngine()) as service:
        await service.post("/v1/chat/completions", messages=[{"role": "user", "content": "hi"}], max_tokens=5)
        await until(lambda: metric(service, "specd_recorded_answers_total"), {"": 1.0})
    (record,) = records_in(folder)
    assert (record["prompt"], record["answer"]) == ("<user>hi>", spoken(5))
    assert (bytes(record["prompt_ids"]), bytes(record["answer_ids"])) == (b"<user>hi>", BYTES[:5])
    assert (record["finish_reason"], record["model"]) == ("length", "fake")
    (path,) = folder.iterdir()
    assert path.stat().st_mode & 0o077 == folder.stat().st_mode & 0o077 == 0


async def test_a_record_has_all_that_its_request_said_of_sampling(settings, folder):
    asked = {"temperature": 0.7, "top_p": 0.9, "top_k": 5, "presence_penalty": 0.5, "logit_bias": {"65": -2.0}}
    async with running(settings, FakeEngine()) as service:
        await service.post(prompt="abc", max_tokens=5, seed=3, stop=["zz"], min_tokens=2, **asked)
    (record,) = records_in(folder)
    assert record["version"] == VERSION
    (path,) = folder.iterdir()
    request = msgspec.json.decode(path.read_bytes(), type=RecordedRequest)
    assert request.law == Sampling(
        max_tokens=5, seed=3, stop=("zz",), min_tokens=2, **asked | {"logit_bias": ((65, -2.0),)}
    )


async def test_an_answer_that_another_worker_began_is_recorded_whole(settings, queue, client, folder):
    job = new_job(max_tokens=9)
    await queue.submit(job)
    claim = await take(queue, "one")
    await queue.append([append(claim, 0, *BYTES[:4])])
    async with worker(settings, FakeEngine()):
        await end_of(client, job)
    (record,) = records_in(folder)
    assert bytes(record["answer_ids"]) == BYTES[:9]


async def test_answers_that_failed_or_were_left_are_not_recorded(settings, queue, client, folder):
    cancelled, refused, whole = new_job(max_tokens=400), new_job((0, 5)), new_job(max_tokens=4)
    async with worker(settings, FakeEngine(step_s=0.01)):
        for job in (cancelled, refused, whole):
            await queue.submit(job)
        await end_of(client, whole)
        await queue.cancel(cancelled.id)
        await end_of(client, cancelled)
        await end_of(client, refused)
    assert [record["id"] for record in records_in(folder)] == [whole.id]


async def test_a_share_of_the_answers_is_recorded(settings, queue, client, folder):
    jobs = [new_job(max_tokens=3, id=f"{number:08x}" + 24 * "0") for number in range(0, 2**32, 2**27)]
    async with worker(recorded_to(settings, folder=str(folder), share=0.25), FakeEngine()):
        for job in jobs:
            await queue.submit(job)
        for job in jobs:
            await end_of(client, job)
    assert len(records_in(folder)) == len(jobs) / 4


async def test_a_redactor_changes_the_text_and_takes_the_ids_with_it(settings, folder, monkeypatch):
    monkeypatch.setattr(REDACTORS, "load", lambda name: {"upside_down": upside_down}[name])
    recording_upside_down = recorded_to(settings, folder=str(folder), redactor="upside_down")
    async with running(recording_upside_down, FakeEngine()) as service:
        await service.post(prompt="abc", max_tokens=5)
    (record,) = records_in(folder)
    assert (record["prompt"], record["answer"], record["redacted"]) == ("cba", spoken(5)[::-1], "upside_down")
    assert not {"prompt_ids", "answer_ids", "sampling"} & set(record)


@pytest.mark.parametrize("redactor", [fails, lambda _: None])
async def test_a_redactor_that_fails_costs_the_record_and_nothing_else(settings, folder, monkeypatch, redactor):
    monkeypatch.setattr(REDACTORS, "load", lambda _: redactor)
    with capture_logs() as logs:
        async with running(recorded_to(settings, folder=str(folder), redactor="x"), FakeEngine()) as service:
            answers = [await service.post(prompt="my secret", max_tokens=5) for _ in range(3)]
            await until(lambda: dropped(service, REDACTION), 3.0)
    assert [status for status, _ in answers] == [200] * 3
    assert records_in(folder) == []
    assert len([line for line in logs if line["event"] == "redactor_failed"]) == 1
    assert "my secret" not in str(logs)


async def dropped(service, reason):
    return (await metric(service, "specd_recording_dropped_total")).get(reason)


async def test_a_folder_that_cannot_be_written_is_told_once_and_requests_go_on(settings, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with capture_logs() as logs:
        async with running(recorded_to(settings, folder=str(tmp_path / "file" / "below")), FakeEngine()) as service:
            answers = [await service.post(prompt="abc", max_tokens=5) for _ in range(3)]
            await until(lambda: dropped(service, DISK), 3.0)
    assert [body["choices"][0]["text"] for _, body in answers] == [spoken(5)] * 3
    (told,) = [line for line in logs if line["event"] == "recording_failed"]
    assert "below" in told["folder"]
    assert told["error"] == "Not a directory"


async def test_a_full_disk_costs_records_until_there_is_room_again(settings, folder, monkeypatch):
    monkeypatch.setattr(recording, "REST_S", 0.0)
    is_full, real = threading.Event(), RecordingFiles.write

    def write(files, line):
        if is_full.is_set():
            # As a disk does that has room for the beginning only.
            real(files, line[:10])
            files._num_bytes -= 10
            files._take_back()
            raise OSError(28, "No space left on device")
        real(files, line)

    monkeypatch.setattr(RecordingFiles, "write", write)
    with capture_logs() as logs:
        async with running(settings, FakeEngine()) as service:
            await service.post(prompt="one", max_tokens=5)
            await until(lambda: metric(service, "specd_recorded_answers_total"), {"": 1.0})
            is_full.set()
            assert [(await service.post(prompt="two", max_tokens=5))[0] for _ in range(2)] == [200, 200]
            await until(lambda: dropped(service, DISK), 2.0)
            is_full.clear()
            await service.post(prompt="three", max_tokens=5)
    assert [record["prompt"] for record in records_in(folder)] == ["one", "three"]
    assert [line["event"] for line in logs if line["event"].startswith("recording_")] == [
        "recording_failed",
        "recording_resumed",
    ]


def test_a_line_that_the_disk_takes_in_part_leaves_nothing(tmp_path, monkeypatch):
    files = RecordingFiles(tmp_path, "w", 1000, 9000)
    files.write(b"whole\n")
    real = os.write
    monkeypatch.setattr("os.write", lambda descriptor, line: real(descriptor, line[:3]))
    with pytest.raises(OSError, match="No space left"):
        files.write(b"cut off\n")
    monkeypatch.setattr("os.write", real)
    files.write(b"after\n")
    files.close()
    (path,) = tmp_path.iterdir()
    assert path.read_bytes() == b"whole\nafter\n"


async def test_a_thread_that_falls_behind_holds_nobody_up(settings, folder, monkeypatch):
    monkeypatch.setattr(recording, "MAX_WAITING", 2)
    go_on, real = threading.Event(), RecordingFiles.write
    monkeypatch.setattr(RecordingFiles, "write", lambda files, line: (go_on.wait(20), real(files, line)))
    async with running(settings, FakeEngine()) as service:
        try:
            async with asyncio.timeout(15):
                answers = [await service.post(prompt="abc", max_tokens=3) for _ in range(8)]
                # One is in the thread's hands and two wait.
                await until(lambda: dropped(service, BEHIND), 5.0)
        finally:
            go_on.set()
    assert [status for status, _ in answers] == [200] * 8
    assert len(records_in(folder)) == 3


def test_files_rotate_and_the_oldest_give_way(tmp_path):
    files = RecordingFiles(tmp_path, "w", 100, 500)
    for number in range(100):
        files.write(b"%048d\n" % number)
    files.close()
    kept = [int(line) for path in sorted(tmp_path.iterdir()) for line in path.read_bytes().split()]
    assert kept == list(range(kept[0], 100))
    assert len(kept) * 49 <= 500 + 49
    assert len(list(tmp_path.iterdir())) == 3


def test_a_file_that_somebody_removed_is_begun_anew(tmp_path):
    files = RecordingFiles(tmp_path, "w", 1000, 9000)
    files.write(b"one\n")
    next(tmp_path.iterdir()).unlink()
    files.write(b"two\n")
    files.close()
    (path,) = tmp_path.iterdir()
    assert path.read_bytes() == b"two\n"


async def test_what_was_recorded_is_prepared_as_the_target_saw_and_wrote_it(settings, folder, tmp_path):
    async with running(settings, FakeEngine()) as service:
        await service.post(prompt="a question", max_tokens=7)
    prepare([folder], tmp_path / "model", tmp_path / "data", Choices(held_out=0.0), lambda _: None)
    (document,) = read_shards(tmp_path / "data" / "train")
    assert (bytes(document.tokens.tolist()), int(document.mask.sum())) == (b"a question" + BYTES[:7], 7)
    assert document.kind == "recorded"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("write to ann.b@mail.example.org now", "write to [email] now"),
        ("call +41 (44) 123-45 67, or 0123456789", "call +[number], or [number]"),
        ("see https://x.example/a?b=c and 12 + 30 = 42", "see [link] and 12 + 30 = 42"),
        ("in 2026, 100 km", "in 2026, 100 km"),
    ],
)
def test_contacts_are_taken_out_and_the_rest_is_left(text, left):
    assert redact_contacts(text) == left


def test_settings_that_record_must_be_possible(tmp_path):
    with pytest.raises(ConfigError, match="max_total_mib must hold two files"):
        load_settings(None, {}, {"recording.folder": "x", "recording.max_total_mib": 100})
    with pytest.raises(ConfigError, match=r"unknown redactor 'contact'.*contacts"):
        Recorder(RecordingSettings(folder="x", redactor="contact"), tmp_path, "w", write_tokenizer(tmp_path / "t"))
