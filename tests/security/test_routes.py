"""Every route is locked but those that are named, and a key that is wrong in any way opens none."""

from pathlib import Path

import msgspec
import pytest

from core.config_file import load_settings
from core.errors import ConfigError
from models.tokenizer import Tokenizer
from service.door import api_keys
from service.door.doorkeeper import METRICS_PATH, OPEN_PATHS
from service.gateway import Gateway
from tests.security.conftest import KEYS, key_of
from tests.service.fakes import FakeEngine, running, until

WRONG = [
    {},
    {"Authorization": "Bearer sk-eve"},
    {"Authorization": "Bearer "},
    {"Authorization": "Basic sk-alice"},
    {"Authorization": "sk-alice"},
    {"Authorization": "Bearer " + "a" * 4000},
    {"Authorization": "Bearer sk-alic\u00e9"},
    {"X-Api-Key": "sk-alice"},
]


def routes(settings):
    """Return method and path of every route, with something in the place of its variables."""
    app = Gateway(settings, Tokenizer(Path(settings.engine.target))).app()
    return {(route.method, filled(route.resource.canonical)) for route in app.router.routes() if route.method != "HEAD"}


def filled(path):
    return path.format(id="0" * 32, name="x", model_id="fake")


async def status_of(service, method, path, headers):
    async with service.http.request(method, service.url + path, headers=headers, json={}) as response:
        return response.status


async def test_all_routes_but_the_open_ones_need_a_key(settings):
    table = routes(settings)
    async with running(settings, FakeEngine()) as service:
        without = {route: await status_of(service, *route, {}) for route in table}
        wrong = {route: await status_of(service, *route, WRONG[1]) for route in table}
        shown = {route: await status_of(service, *route, key_of("alice")) for route in table}
    open_routes = {path for (_, path), status in without.items() if status != 401}
    named = {filled(path) for path in OPEN_PATHS if path != METRICS_PATH}
    assert open_routes == named
    assert named == {"/health", "/livez", "/readyz", "/version", "/page", "/page/x"}
    assert without == wrong
    assert 401 not in shown.values()
    assert len(table) > 10


async def test_what_there_is_not_is_as_locked_as_what_there_is(settings):
    async with running(settings, FakeEngine()) as service:
        for path in (
            "/",
            "/v1/nothing",
            "/page/",
            "/page/x/y",
            "/health/",
            "/health/x",
            "//health",
            "/HEALTH",
            "/health%2f..%2fv1%2fmodels",
        ):
            assert await status_of(service, "GET", path, {}) == 401, path
        assert await status_of(service, "GET", "/v1/nothing", key_of("alice")) == 404
        assert await status_of(service, "DELETE", "/health", {}) == 401


async def test_a_key_that_is_wrong_is_none(settings):
    async with running(settings, FakeEngine()) as service:
        for headers in WRONG:
            async with service.http.get(f"{service.url}/v1/models", headers=headers) as response:
                assert (response.status, response.headers["WWW-Authenticate"]) == (401, "Bearer"), headers
                assert (await response.json())["error"]["code"] == "invalid_api_key"


async def test_metrics_are_open_where_the_settings_say_so(settings):
    server = msgspec.structs.replace(settings.server, open_metrics=True)
    async with running(msgspec.structs.replace(settings, server=server), FakeEngine()) as service:
        assert await status_of(service, "GET", "/metrics", {}) == 200
        assert await status_of(service, "GET", "/v1/models", {}) == 401


def test_every_known_hash_is_compared_in_constant_time(keys_file, monkeypatch):
    compared = []
    monkeypatch.setattr(
        api_keys.hmac, "compare_digest", lambda one, other: compared.append((one, other)) or one == other
    )
    ring = api_keys.KeyRing(keys_file)
    for key in ("sk-alice", "sk-urgent", "sk-eve"):
        compared.clear()
        found = ring.tenant(key)
        assert (found.name if found else None) == {"sk-alice": "alice", "sk-urgent": "urgent"}.get(key)
        assert len(compared) == len(KEYS)


async def test_a_key_that_is_revoked_lets_nobody_in_and_a_new_one_does_without_a_restart(
    settings, keys_file, monkeypatch
):
    monkeypatch.setattr(api_keys, "LOOK_S", 0.05)
    async with running(settings, FakeEngine()) as service:
        assert await status_of(service, "GET", "/v1/models", key_of("alice")) == 200
        keys = api_keys.read_keys(keys_file)
        renamed = {"eve": msgspec.structs.replace(keys["alice"], sha256=api_keys.hash_of("sk-eve")), "bob": keys["bob"]}
        api_keys.write_keys(keys_file, renamed)
        await until(lambda: status_of(service, "GET", "/v1/models", key_of("alice")), 401)
        assert await status_of(service, "GET", "/v1/models", key_of("eve")) == 200
        # What cannot be read leaves the keys as they were: a slip of the pen locks nobody out, and lets nobody in.
        keys_file.write_text("[keys", encoding="utf-8")
        await until(lambda: status_of(service, "GET", "/v1/models", key_of("eve")), 200)
        assert await status_of(service, "GET", "/v1/models", key_of("alice")) == 401


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[keys", "not valid TOML"),
        ("keys = 3", "tables"),
        ("[kyes.a]\nsha256 = '0'", "unknown section 'kyes'"),
        ("[keys.'a b']\nsha256 = '0'", "a key's name"),
        ("[keys.a]\nsha256 = 'beef'", "keys.a"),
        ("[keys.a]\n", "sha256"),
        (f"[keys.a]\nsha256 = '{'0' * 64}'\nmax_concurency = 3", "did you mean 'max_concurrency'"),
        (f"[keys.a]\nsha256 = '{'0' * 64}'\nmax_concurrency = 0", ">= 1"),
        (f"[keys.a]\nsha256 = '{'0' * 64}'\ntenant = 'a/b'", "keys.a"),
    ],
)
def test_a_file_of_keys_that_is_wrong_says_where(tmp_path, text, words):
    path = tmp_path / "keys.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=words):
        api_keys.read_keys(path)


def test_the_file_is_written_for_its_owner_alone(keys_file):
    assert keys_file.stat().st_mode & 0o777 == 0o600
    assert "sk-alice" not in keys_file.read_text(encoding="utf-8")
    assert api_keys.read_keys(keys_file)["many"].max_concurrency == 2


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_a_server_without_keys_is_not_opened_to_others_by_mistake(host):
    with pytest.raises(ConfigError, match=r"open to other machines.*--api-keys.*--allow-no-keys"):
        load_settings(None, {}, {"server.host": host})
    for said in ({"server.allow_no_keys": True}, {"server.api_keys_file": "keys.toml"}):
        load_settings(None, {}, {"server.host": host, **said})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_a_server_of_this_machine_needs_no_keys(host):
    assert load_settings(None, {}, {"server.host": host})[0].server.host == host
