"""Each role does all of its work with a user of its own in Redis, and nothing else."""

import asyncio
import re
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from client.direct import new_job_id, submit
from client.drafters import load_drafter
from client.wire import Final, IntakeRequest
from service import drafter_loads
from service.storage.redis_acl import ROLES
from service.storage.scripts import SCRIPTS
from tests.security.redis_servers import is_redis_6, redis_with_users, refuses
from tests.service.fakes import FakeEngine, Service, fake_settings, gateway, until, worker
from tests.service.test_drafters import FakeHost


@pytest.fixture(scope="module")
def urls(tmp_path_factory):
    with redis_with_users(tmp_path_factory.mktemp("redis")) as urls:
        yield urls


@asynccontextmanager
async def roles_running(urls, folder: Path, engine: FakeEngine):
    """Run a gateway and a worker, each as its own user, from an empty Redis."""
    settings = fake_settings(urls["gateway"], folder / "model", lease_ms=1000)
    server = msgspec.structs.replace(settings.server, admin=str(folder / "admin.sock"))
    settings = msgspec.structs.replace(settings, server=server)
    queue = msgspec.structs.replace(settings.queue, redis_url=urls["worker"])
    own = msgspec.structs.replace(settings, queue=queue)
    stop = asyncio.Event()
    async with worker(own, engine, FakeHost()), gateway(settings, stop=stop) as http:
        yield Service(settings, engine, http, stop.set)


async def test_every_kind_of_work_is_done(urls, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(drafter_loads, "POLL_S", 0.05)
    engine = FakeEngine()
    async with roles_running(urls, tmp_path, engine) as service:
        assert (await service.post(prompt="a", max_tokens=9, n=2, user="u", deadline_ms=60_000, priority=-1))[0] == 200
        assert await service.stream(prompt="a", max_tokens=9)
        for key in ({}, {"Idempotency-Key": "k"}, {"Idempotency-Key": "k"}):
            async with service.http.post(f"{service.url}/v1/jobs", json={"prompt": "a"}, headers=key) as response:
                assert response.status == 202
                job = (await response.json())["links"]["self"]
        async with service.http.get(f"{service.url}{job}/events") as response:
            assert (await response.read()).endswith(b"data: [DONE]\n\n")
        for method, path in (("GET", job), ("POST", f"{job}/cancel"), ("DELETE", job), ("GET", "/metrics")):
            async with service.http.request(method, service.url + path) as response:
                assert response.status == 200, path
        # A job that is cancelled while it runs, one past its deadline, one that a step breaks.
        engine.step_s = 0.02
        assert (await service.post(prompt="a", max_tokens=400, deadline_ms=300))[0] == 504
        assert (await service.post(prompt=[1]))[0] == 500
        await load_drafter(tmp_path / "admin.sock", "lookup", {"kind": "ngram"})
        await until(lambda: named(service), 200)
        request = IntakeRequest(id=new_job_id(), prompt="a", max_tokens=5)
        *_, final = [event async for event in submit(urls["client"], request)]
        assert isinstance(final, Final)
        assert final.usage.completion_tokens == 5
    # What a script asks for without minding a refusal.
    assert not refuses(urls["gateway"], "XINFO", "CONSUMERS", "specd:intake", "gateways")
    assert not refuses(urls["gateway"], "XGROUP", "DELCONSUMER", "specd:intake", "gateways", "nobody")
    said = capfd.readouterr()
    # redis-py leaves Redis's own word for it out.
    assert not re.search("NOPERM|no permissions", said.out + said.err)


async def named(service):
    return (await service.post(prompt="a", speculation={"drafter": "lookup"}))[0]


@pytest.mark.parametrize("name", [*ROLES, "nobody"])
def test_nobody_may_do_what_is_not_theirs(urls, name):
    nobody = re.sub(r"//.*@", "//", urls["gateway"])
    url = urls.get(name, nobody)
    for command in (
        ("FLUSHALL",),
        ("FLUSHDB",),
        ("KEYS", "*"),
        ("SCAN", "0"),
        ("CONFIG", "GET", "requirepass"),
        ("CONFIG", "SET", "dir", "/"),
        ("ACL", "LIST"),
        ("SHUTDOWN",),
        ("MONITOR",),
        ("CLIENT", "LIST"),
        ("EVAL", "return 1", "0"),
        ("SAVE",),
        ("REPLICAOF", "NO", "ONE"),
        ("SET", "other", "x"),
        ("XADD", "other", "*", "a", "b"),
        ("GET", "other"),
        ("PUBLISH", "specd", "x"),
    ):
        assert refuses(url, *command), command


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("worker", ("XADD", "specd:intake", "*", "request", "x")),
        ("worker", ("XRANGE", "specd:intake", "-", "+")),
        ("worker", ("HGETALL", "specd:idem:0")),
        ("worker", ("DEL", "specd:{0}:http")),
        ("worker", ("DEL", "specd:t:{alice}:rate")),
        ("client", ("HGETALL", "specd:workers")),
        ("client", ("XADD", "specd:q:{fake}:p1", "*", "j", "x")),
        ("client", ("XRANGE", "specd:intake", "-", "+")),
        ("client", ("HGET", "specd:{0}:job", "job")),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[:2]),
)
def test_a_role_reaches_no_keys_of_another(urls, name, command):
    assert refuses(urls[name], *command)


@pytest.mark.skipif(is_redis_6(), reason="Redis 6 has neither read-only nor write-only keys")
def test_a_client_forges_no_answer_and_reads_no_request(urls):
    assert refuses(urls["client"], "XADD", "specd:{0}:out", "1-0", "m", "x")
    assert refuses(urls["client"], "XREAD", "STREAMS", "specd:intake", "0")


def test_a_script_reaches_no_other_keys_than_its_user(urls):
    for name in ("gateway", "worker"):
        assert refuses(urls[name], "EVAL", "return redis.call('KEYS', '*')", "0")


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_touch_declared_keys_alone(name):
    code = "\n".join(line.partition("--")[0] for line in SCRIPTS[name].splitlines())
    # What a variable is that stands for a key: KEYS[...], or one of all of them.
    keys = set(re.findall(r"for _, (\w+) in ipairs\(KEYS\)", code))
    for names, values in re.findall(r"local ([\w, ]+) = (KEYS\[.*)", code):
        keys |= {one.strip() for one, value in zip(names.split(","), values.split(",")) if "KEYS[" in value}
    touched = re.findall(
        r"redis\.p?call\('(?:XINFO|XGROUP|XREADGROUP)'.*?(KEYS\[|\w+)(?:\d\])?(?:, '>'|, ARGV\[1\](?:, told\.name)?)\)"
        r"|redis\.p?call\('(?!XINFO|XGROUP|XREADGROUP|TIME)\w+', (KEYS\[|\w+)",
        code,
    )
    assert len(touched) == len(re.findall(r"redis\.p?call\('(?!TIME')", code))
    assert all((one or other) in {"KEYS[", *keys} for one, other in touched), touched
    assert "loadstring" not in code
