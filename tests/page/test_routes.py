"""The page over plain HTTP: its files and their headers, who needs a key, and the numbers that it draws."""

import fnmatch
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from redis.asyncio import Redis

from service.door.api_keys import ApiKey, hash_of, write_keys
from service.routes.live import Live
from service.routes.page_routes import CONTENT_TYPES, POLICY, page_files
from tests.service.fakes import FakeEngine, running, until

FILES = page_files()
ROOT = Path(__file__).parents[2]


class Attributes(HTMLParser):
    """Collects the tags of a document with their attributes, and the text of scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.inline, self._in = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._in = tag

    def handle_data(self, data):
        if self._in in ("script", "style") and data.strip():
            self.inline.append(data)


INDEX = Attributes(FILES["index.html"].decode())


async def fetched(service, path, **headers):
    async with service.http.get(service.url + path, headers=headers) as response:
        return response.status, dict(response.headers), await response.read()


async def test_every_file_is_served_as_what_it_is_under_a_strict_policy(settings):
    async with running(settings, FakeEngine()) as service:
        for name, data in {"": FILES["index.html"], **{f"/{name}": data for name, data in FILES.items()}}.items():
            status, headers, body = await fetched(service, f"/page{name}")
            assert (status, body) == (200, data), name
            assert headers["Content-Security-Policy"] == POLICY
            assert headers["X-Content-Type-Options"] == "nosniff"
            kind = CONTENT_TYPES[f".{name.rpartition('.')[2]}"] if name else "text/html"
            assert headers["Content-Type"] == f"{kind}; charset=utf-8"


def test_the_policy_allows_the_pages_own_files_and_nothing_else():
    rules = dict(rule.split(" ", 1) for rule in POLICY.split("; "))
    assert rules.pop("default-src") == "'none'"
    assert rules.pop("require-trusted-types-for") == "'script'"
    assert set(rules.values()) == {"'self'", "'none'"}
    assert "unsafe" not in POLICY


@pytest.mark.parametrize("name", ["nothing.js", "..%2fgateway.py", "%2e%2e/gateway.py", "index.html%00.js", ""])
async def test_what_is_no_file_of_the_page_is_not_found(settings, name):
    async with running(settings, FakeEngine()) as service:
        assert (await fetched(service, f"/page/{name}"))[0] == 404


def test_a_document_has_no_code_and_no_style_of_its_own():
    assert INDEX.inline == []
    assert [
        name for _, attributes in INDEX.tags for name in attributes if name.startswith("on") or name == "style"
    ] == []


def test_every_address_in_the_files_is_one_of_this_server():
    addresses = [attributes[name] for _, attributes in INDEX.tags for name in ("src", "href") if name in attributes]
    assert {one.removeprefix("page/") for one in addresses if one.startswith("page/")} <= set(FILES)
    assert {one for one in addresses if not one.startswith("page/")} == {"#prompt", "openapi.json"}
    for name, data in FILES.items():
        found = set(re.findall(r"[a-z]+://[^\s\"'`)]+|url\(", data.decode()))
        assert found <= {"http://www.w3.org/2000/svg"}, name


def test_imports_of_modules_lead_to_files_of_the_page():
    imported = re.findall(r'from "\./([^"]+)"', "".join(FILES[name].decode() for name in FILES if name.endswith(".js")))
    assert "tokens.js" in imported
    assert set(imported) <= set(FILES)


def test_no_text_can_become_markup_or_code():
    sinks = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|DOMParser|srcdoc|javascript:"
    assert [name for name, data in FILES.items() if re.search(sinks, data.decode())] == []


def test_every_file_is_in_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["*"]
    assert len(FILES) > 8
    assert [name for name in FILES if not any(fnmatch.fnmatch(f"page/{name}", one) for one in patterns)] == []


async def test_the_files_need_no_key_and_the_numbers_do(settings, tmp_path):
    write_keys(tmp_path / "keys.toml", {"alice": ApiKey(sha256=hash_of("sk-alice"))})
    server = msgspec.structs.replace(settings.server, api_keys_file=str(tmp_path / "keys.toml"))
    async with running(msgspec.structs.replace(settings, server=server), FakeEngine()) as service:
        assert (await fetched(service, "/page"))[0] == 200
        assert (await fetched(service, "/page/main.js"))[0] == 200
        assert (await fetched(service, "/specd/live"))[0] == 401
        assert (await fetched(service, "/specd/live", Authorization="Bearer sk-alice"))[0] == 200


async def test_a_server_may_do_without(settings):
    server = msgspec.structs.replace(settings.server, page=False)
    async with running(msgspec.structs.replace(settings, server=server), FakeEngine()) as service:
        assert (await fetched(service, "/page"))[0] == 404
        assert (await fetched(service, "/page/main.js"))[0] == 404
        assert (await fetched(service, "/specd/live"))[0] == 200


async def live(service):
    return msgspec.json.decode((await fetched(service, "/specd/live"))[2], type=Live)


async def test_the_numbers_are_those_of_workers_and_of_clients(settings):
    engine = FakeEngine()
    async with running(settings, engine) as service:
        for _ in range(2):
            await service.post(prompt="a", max_tokens=30)

        async def emitted():
            return [worker.engine.emitted for worker in (await live(service)).workers]

        await until(emitted, [engine.num_emitted])
        told = await live(service)
    (worker,), (arm,) = told.workers, told.arms
    assert told.choices.policies[0] == told.choices.default_policy
    assert told.now_s - worker.told_s == pytest.approx(worker.silent_s, abs=1e-3)
    assert (worker.engine.groups[0].rounds, worker.engine.groups[0].accepted_at) == (20, (20, 20))
    assert (arm.answers, arm.tokens, arm.verified, arm.accepted) == (2, 60, 40, 40)
    assert arm.token_s.low <= arm.token_s.estimate <= arm.token_s.high
    assert [one.priority for one in told.waiting] == ["high", "normal", "low"]


async def test_with_redis_out_of_reach_it_says_so(settings):
    async with running(settings, FakeEngine()) as service, Redis.from_url(settings.queue.redis_url) as redis:
        await redis.client_pause(2500)
        told = await live(service)
        assert (told.jobs, told.redis_s, told.workers) == (None, None, ())
        assert told.choices.drafters


async def test_a_stream_tells_what_was_drafted_to_whom_asks_for_every_step(settings):
    async with running(settings, FakeEngine()) as service:
        usual = await service.stream(prompt="a", max_tokens=6)
        detailed = await service.stream(prompt="a", max_tokens=6, spec_decode_metrics="detailed")
    assert [one["speculation"].get("drafted") for one in usual if "speculation" in one] == [None, None]
    assert [one["speculation"]["drafted"] for one in detailed if "speculation" in one] == [4, 4]
