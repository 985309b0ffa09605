"""Nobody writes a line of the log but the service, and no line has anybody's prompt in it."""

import asyncio
import json
import re

import pytest
import structlog

from core.config import LogSettings
from service.log_text import as_one_line, frames, one_line
from service.logs import configure_logs
from tests.security.processes import gateway_process
from tests.service.fakes import FakeEngine

# What would look like a line of ours, for each format, and what a terminal would obey.
FORGED = "2026-01-01T00:00:00Z [info     ] forged_event                   admin=True"
FORGED_JSON = '{"event": "forged_event", "level": "info"}'
HOSTILE = [
    f"x\n{FORGED}",
    f"x\r{FORGED}",
    f"x\r\n{FORGED_JSON}",
    f"\x1b[2K\x1b[1G{FORGED}",
    f"x\u2028{FORGED}",
    f"x\x85{FORGED}",
    "\ud800 half a character",
    "a" * (1 << 20),
    "\x00\x08\x7f",
]


@pytest.mark.parametrize("log_format", ["console", "json"])
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_text_makes_one_line_wherever_it_stands(log_format, text, capfd):
    configure_logs(LogSettings(format=log_format))
    structlog.get_logger().info("asked", path=text, number=3, **{text[:50]: 1})
    line = capfd.readouterr().err
    assert line.count("\n") == 1
    assert line.endswith("\n")
    assert len(line) < 8000
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\ud800]", line)
    if log_format == "json":
        assert json.loads(line)["event"] == "asked"


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_traceback_cannot_look_like_an_event(log_format, capfd):
    configure_logs(LogSettings(format=log_format))
    error = ValueError(f"bad\n{FORGED}\n{FORGED_JSON}\x1b[31m")
    structlog.get_logger().error("step_failed", exc_info=error)
    told = capfd.readouterr().err
    assert "\x1b" not in told
    assert "ValueError" in told
    first, *others = told.splitlines()
    assert "step_failed" in first
    assert all(line.startswith("    | ") for line in others)
    assert bool(others) == (log_format == "console")


def raise_with_cause(text):
    try:
        return {}[text]
    except KeyError as error:
        raise ValueError(text) from error


def test_where_an_unforeseen_error_comes_from_is_told_and_nothing_of_what_it_says():
    with pytest.raises(ValueError, match="my secret prompt") as caught:
        raise_with_cause("my secret prompt")
    told = frames(caught.value)
    assert told.index("KeyError") < told.index("ValueError")
    assert "in raise_with_cause" in told
    assert "secret" not in told.replace('raise_with_cause("my secret prompt")', "")
    shown = as_one_line(None, "", {"event": "x", "exception": told})["exception"]
    assert all(line.startswith("    | ") for line in shown.splitlines())


def test_a_long_text_says_how_long_it_was():
    assert one_line("a" * 5000) == "a" * 2000 + "... (5000 characters)"


@pytest.mark.parametrize("log_format", ["console", "json"])
async def test_a_whole_run_logs_events_alone_and_no_prompt(open_settings, tmp_path, log_format):
    secret, log = "Xyzzy-prompt-of-somebody", LogSettings(level="debug", format=log_format)
    forged = f"{secret}\n{FORGED}\n{FORGED_JSON}"
    async with gateway_process(open_settings, tmp_path, FakeEngine(), log=log) as gateway:
        assert (await gateway.post(prompt=secret))[0] == 200
        assert (await gateway.post(prompt=forged, user=forged, cache_salt=forged))[0] == 200
        assert (await gateway.post("/v1/jobs", prompt=forged))[0] == 202
        assert (await gateway.post("/v1/chat/completions", messages=[{"role": forged, "content": secret}]))[0] == 400
        assert (await gateway.post(prompt=secret, model=forged))[0] == 404
        assert (await gateway.post(prompt=[0], user=forged))[0] == 400
        for path in (f"/v1/jobs/{'0' * 32}%0a{FORGED[:20]}", "/%0d%0aforged_event", "/v1/models/%1b%5b31mforged_event"):
            async with gateway.http.get(gateway.url + path) as response:
                assert response.status in (400, 404)
        for head in (
            b"GET / HTTP/1.1\r\nforged_event\r\n\r\n",
            b"forged_event Xyzzy-prompt-of-somebody\r\n\r\n",
            b"GET /\x1b[31mforged_event HTTP/1.1\r\n\r\n",
            b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 9, forged_event\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nXyzzy-prompt-of-somebody\r\n",
        ):
            answer = await gateway.raw(head)
            assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")) or not answer, answer
        await asyncio.sleep(0.1)
    told = gateway.log
    assert "gateway_ready" in told
    assert secret not in told
    assert "\x1b" not in told
    for line in told.splitlines():
        if log_format == "json":
            assert json.loads(line)["event"] != "forged_event"
        else:
            assert re.match(r"\d{4}-\d\d-\d\d.* \[\w+ *\] [a-z_]+ |    \| ", line), line
            assert not re.match(r".*\] forged_event", line), line
