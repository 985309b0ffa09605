"""The doctor finds what is wrong with a deployment, one line each, and says how to mend it."""

import asyncio
import json

import msgspec
import pytest
from redis import Redis

from cli.doctor import examine
from cli.main import main
from service.doctor.check import Status
from service.doctor.recording import check_recording
from tests.service.fakes import FakeEngine, running


def replaced(settings, section, **fields):
    return msgspec.structs.replace(settings, **{section: msgspec.structs.replace(getattr(settings, section), **fields)})


async def found(settings):
    return {check.name: check for check in await examine(settings)}


@pytest.fixture
def sound(settings, tmp_path):
    """Settings of a gateway whose target is there."""
    (tmp_path / "model" / "config.json").write_text("{}", encoding="utf-8")
    return replaced(settings, "server", role="gateway")


async def test_a_deployment_that_runs_is_found_well(sound):
    async with running(sound, FakeEngine()):
        checks = await found(sound)
    assert not [check for check in checks.values() if check.status is Status.FAILED]
    assert checks["workers"].found == "1 serve 'fake'"
    assert "a server answers" in checks["port"].found
    # The Redis of the tests keeps nothing, and lets everybody do everything.
    assert checks["Redis persistence"].status is checks["Redis rights"].status is Status.UNSURE


async def test_a_missing_worker_and_a_missing_tokenizer_are_found(sound, tmp_path):
    (tmp_path / "model" / "tokenizer.json").unlink()
    checks = await found(sound)
    assert checks["workers"].status is Status.FAILED
    assert "specd serve --role worker" in checks["workers"].cure
    assert checks["target"].status is Status.FAILED


async def test_a_redis_out_of_reach_or_one_that_evicts_is_found(sound, redis_url, tmp_path):
    checks = await found(replaced(sound, "queue", redis_url=f"unix://{tmp_path}/none.sock"))
    assert checks["Redis"].status is Status.FAILED
    with Redis.from_url(redis_url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            checks = await found(sound)
        finally:
            client.config_set("maxmemory-policy", "noeviction")
    assert checks["Redis memory"].status is Status.FAILED
    assert "noeviction" in checks["Redis memory"].cure


async def test_secrets_that_others_may_read_or_change_are_found(sound, tmp_path):
    keys, password = tmp_path / "keys.toml", tmp_path / "password"
    keys.touch(0o666)
    keys.chmod(0o666)
    password.write_text("x", encoding="utf-8")
    password.chmod(0o644)
    settings = replaced(sound, "server", api_keys_file=str(keys))
    settings = replaced(settings, "queue", redis_password_file=str(password))
    checks = await found(settings)
    assert (checks["API keys"].status, checks["API keys"].cure) == (Status.FAILED, f"chmod 600 {keys}")
    assert checks["redis_password_file"].status is Status.FAILED
    keys.chmod(0o600)
    assert "nobody gets in" in (await found(settings))["API keys"].found


async def test_a_machine_that_is_too_small_is_found(sound, tmp_path):
    sizes = {"num_hidden_layers": 64, "num_attention_heads": 64, "head_dim": 128, "num_key_value_heads": 64}
    (tmp_path / "model" / "config.json").write_text(json.dumps(sizes), encoding="utf-8")
    settings = replaced(replaced(sound, "engine", num_threads=1024, kv_cache_tokens=1 << 26), "server", role="worker")
    checks = await found(settings)
    for name in ("threads", "KV memory", "target", "drafter dspark"):
        assert checks[name].cure if checks[name].status is Status.FAILED else name == "drafter dspark", name
    assert "address" not in checks


def recording(sound, folder, **fields):
    settings = replaced(sound, "server", role="worker")
    [check] = check_recording(replaced(settings, "recording", folder=str(folder), **fields))
    return check


def test_a_folder_of_recorded_answers_is_looked_at_where_a_worker_writes_one(sound, tmp_path):
    assert not list(check_recording(replaced(sound, "server", role="worker")))
    assert not list(check_recording(replaced(sound, "recording", folder=str(tmp_path))))
    folder = tmp_path / "recorded"
    assert recording(sound, folder).status is Status.OK
    assert not folder.exists()
    folder.mkdir(mode=0o755)
    (folder / "recorded-1.jsonl").write_bytes(b"x" * (3 << 20))
    check = recording(sound, folder)
    assert (check.status, check.cure) == (Status.UNSURE, f"chmod 700 {folder}")
    assert "holds 3 of at most 1024 MiB" in check.found


def test_a_recording_that_the_disk_cannot_hold_or_take_is_found(sound, tmp_path):
    assert recording(sound, tmp_path / "new", max_total_mib=1 << 24).cure.startswith("lower recording.max_total_mib")
    (tmp_path / "file").touch()
    for nowhere in (tmp_path / "file", "/proc/recorded"):
        check = recording(sound, nowhere)
        assert check.status is Status.FAILED
        assert "cannot be written" in check.found


async def test_a_port_that_somebody_else_has_is_found(sound, unused_tcp_server):
    checks = await found(replaced(sound, "server", port=unused_tcp_server))
    assert checks["port"].status is Status.FAILED


@pytest.fixture
async def unused_tcp_server():
    """The port of one that listens and says nothing of specd's."""

    async def close(_, writer):
        writer.close()

    server = await asyncio.start_server(close, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


def test_settings_that_do_not_hold_are_a_line_and_status_1(capsys):
    assert main(["doctor", "--host", "0.0.0.0", "--json"]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["name"] == "settings"
    assert "--allow-no-keys" in json.loads(line)["found"]


def test_a_machine_with_the_demo_is_fine_without_anything(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert main(["doctor", "--port", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith(("ok", "unsure")) for line in lines)
    assert any("Redis: private" in line for line in lines)


def test_keys_are_made_listed_and_revoked(tmp_path, capsys):
    path = str(tmp_path / "keys.toml")
    assert main(["keys", "create", "alice", "--file", path, "--max-concurrency", "3", "--tenant", "team"]) == 0
    key = capsys.readouterr().out.strip()
    assert key.startswith("sk-specd-")
    assert main(["keys", "create", "alice", "--file", path]) == 2
    assert main(["keys", "create", "a b", "--file", path]) == 2
    assert main(["keys", "create", "bob", "--file", path, "--max-concurrency", "-3"]) == 2
    capsys.readouterr()
    assert main(["keys", "list", "--file", path]) == 0
    listed = capsys.readouterr().out
    assert "alice" in listed
    assert "team" in listed
    assert key not in listed + (tmp_path / "keys.toml").read_text()
    assert main(["keys", "revoke", "alice", "--file", path]) == 0
    assert main(["keys", "revoke", "alice", "--file", path]) == 2
    assert main(["keys", "list", "--file", path]) == 0
    assert "no keys" in capsys.readouterr().out
