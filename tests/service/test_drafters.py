"""Drafters come and go while a server runs: declared in Redis, done by every worker between two steps."""

import socket
import time

import msgspec
import pytest
from aiohttp import web

from client.drafters import fetch_drafters, load_drafter, unload_drafter
from client.wire import drafters_key
from core.errors import CheckpointError, ConfigError, QueueError
from core.types import Speculation
from service import drafter_loads
from service.http.admin_socket import admin_path, admin_socket
from service.storage.connect import connect
from tests.service.fakes import FakeEngine, running, until


class FakeHost:
    """An engine's drafters, as names; a drafter called broken cannot be read, one called large has no room."""

    def __init__(self):
        self.loaded, self.expected, self.read_s = {"dspark": 1.5}, [], 0.0
        self.prepared = []

    def prepare(self, name, settings):
        time.sleep(self.read_s)
        self.prepared.append((name, settings))
        if name == "broken":
            raise CheckpointError("config.json is missing")
        return lambda: self._put(name)

    def _put(self, name):
        if name == "large":
            raise ConfigError("no room was kept")
        self.loaded[name] = 0.0

    def unload(self, name):
        del self.loaded[name]

    def expect(self, name):
        self.expected.append(name)

    def kv_mib(self):
        return dict(self.loaded)


@pytest.fixture
def host():
    return FakeHost()


@pytest.fixture
def allowed(settings, monkeypatch, tmp_path):
    monkeypatch.setattr(drafter_loads, "POLL_S", 0.05)
    return msgspec.structs.replace(
        settings, server=msgspec.structs.replace(settings.server, admin=str(tmp_path / "admin.sock"))
    )


def admin_of(service):
    return admin_path(service.settings.server)


async def states(service):
    [worker] = await fetch_drafters(admin_of(service))
    return {one.name: one.state for one in worker.drafters}


async def test_a_drafter_is_loaded_and_can_be_named_and_goes_again(allowed, host):
    engine = FakeEngine()
    async with running(allowed, engine, host) as service:
        status, refused = await service.post(prompt="a", speculation={"drafter": "lookup"})
        assert status == 400
        assert "'lookup' is not configured" in refused["error"]["message"]
        await load_drafter(admin_of(service), "lookup", {"kind": "ngram", "max_drafts": 3})
        await until(lambda: states(service), {"dspark": "loaded", "lookup": "loaded"})
        [(name, told)] = host.prepared
        assert (name, told.max_drafts) == ("lookup", 3)
        status, _ = await service.post(prompt="a", speculation={"drafter": "lookup"})
        assert status == 200
        assert engine.seen[-1].speculation == Speculation(drafter="lookup")
        await unload_drafter(admin_of(service), "lookup")
        await until(lambda: states(service), {"dspark": "loaded", "lookup": "unloaded"})
        status, _ = await service.post(prompt="a", speculation={"drafter": "lookup"})
        assert status == 400


async def test_one_of_the_settings_can_go_and_requests_for_it_are_still_let_in(allowed, host):
    async with running(allowed, FakeEngine(), host) as service:
        await unload_drafter(admin_of(service), "dspark")
        await until(lambda: states(service), {"dspark": "unloaded"})
        assert host.loaded == {}
        assert (await service.post(prompt="a", speculation={"drafter": "dspark"}))[0] == 200


async def test_steps_go_on_while_a_checkpoint_is_read(allowed, host):
    engine, host.read_s = FakeEngine(step_s=0.001), 0.5
    async with running(allowed, engine, host) as service:
        await load_drafter(admin_of(service), "lookup", {"kind": "ngram"})
        await until(lambda: states(service), {"dspark": "loaded", "lookup": "loading"})
        status, _ = await service.post(prompt="a", max_tokens=30)
        assert status == 200
        assert (await states(service))["lookup"] == "loading"


@pytest.mark.parametrize(("name", "why"), [("broken", "config.json is missing"), ("large", "no room was kept")])
async def test_what_cannot_be_loaded_is_reported_and_the_worker_serves_on(allowed, host, name, why):
    async with running(allowed, FakeEngine(), host) as service:
        await load_drafter(admin_of(service), name, {"kind": "ngram"})
        await until(lambda: states(service), {"dspark": "loaded", name: "failed"})
        [worker] = await fetch_drafters(admin_of(service))
        [failed] = [one for one in worker.drafters if one.name == name]
        assert failed.error == why
        assert not failed.serves
        assert (await service.post(prompt="a"))[0] == 200
        # Nobody serves it, so nobody may name it.
        assert (await service.post(prompt="a", speculation={"drafter": name}))[0] == 400


async def test_a_worker_that_starts_later_does_what_the_others_did_before_it_takes_a_job(allowed, host):
    async with connect(allowed.queue.redis_url, 5.0) as client:
        await client.hset(drafters_key("fake"), mapping={"lookup": b'{"kind":"ngram"}', "dspark": b"null"})
    async with running(allowed, FakeEngine(), host) as service:
        assert set(host.expected) >= {"lookup", "dspark"}
        await until(lambda: states(service), {"dspark": "unloaded", "lookup": "loaded"})


async def test_what_is_wanted_is_checked_at_the_edge(allowed, host):
    async with running(allowed, FakeEngine(), host) as service:
        for told, message in (
            ({"kind": "ngrm"}, "did you mean 'ngram'"),
            ({"kind": "ngram", "max_draft": 3}, "did you mean 'max_drafts'"),
            ({"kind": "none"}, "nothing to load"),
            ({}, "kind is missing"),
        ):
            with pytest.raises(QueueError, match=f"400: .*{message}"):
                await load_drafter(admin_of(service), "lookup", told)
        with pytest.raises(QueueError, match="a name in"):
            await load_drafter(admin_of(service), "not.a.name", {"kind": "ngram"})
        with pytest.raises(QueueError, match="404: no drafter 'lookop'"):
            await unload_drafter(admin_of(service), "lookop")
        assert host.prepared == []


async def test_no_port_leads_to_a_change(allowed, host):
    async with running(allowed, FakeEngine(), host) as service:
        for method in ("PUT", "DELETE"):
            async with service.http.request(method, f"{service.url}/specd/drafters/dspark", json={}) as response:
                assert response.status == 404
        assert (await states(service)) == {"dspark": "loaded"}
        async with service.http.get(f"{service.url}/specd/drafters") as response:
            assert [one["name"] for one in (await response.json())[0]["drafters"]] == ["dspark"]


async def test_the_socket_is_for_this_user_alone_and_goes_with_its_server(allowed, host):
    path = admin_path(allowed.server)
    async with running(allowed, FakeEngine(), host):
        assert path.stat().st_mode & 0o777 == 0o600
    assert not path.exists()


async def test_a_socket_that_a_dead_server_left_is_taken_over_and_one_in_use_is_not(allowed, host):
    path = admin_path(allowed.server)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    async with running(allowed, FakeEngine(), host):
        with pytest.raises(ConfigError, match="another server has it"):
            async with admin_socket(path, web.Application()):
                pass
    with pytest.raises(ConfigError, match="longer than 107 bytes"):
        async with admin_socket(path.parent / ("a" * 108), web.Application()):
            pass


async def test_without_a_socket_the_client_says_where_it_looked(tmp_path):
    with pytest.raises(QueueError, match=r"no answer at the admin socket .*none\.sock"):
        await fetch_drafters(tmp_path / "none.sock")
