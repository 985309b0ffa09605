"""The playground in a real Chromium: tokens in their colours, from the keyboard, through everything that goes wrong."""

import asyncio

import msgspec
import pytest
from aiohttp import web

from service.door.api_keys import ApiKey, hash_of, write_keys
from tests.page.browser import CTRL
from tests.page.engine import IS_DONE, VariedEngine, run, shown, visit
from tests.service.fakes import running

EVIL = b'<script>window.hit = 1</script><img src=x onerror="window.hit=1">\n&lt;b&gt; '


def field(name):
    return f"document.getElementById('{name}')"


async def test_tokens_have_the_colours_that_the_engines_own_counts_say(tab, settings):
    async with running(settings, VariedEngine()) as service:
        await visit(tab, service.url, max_tokens="45", prompt="a")
        said = await run(tab)
        _, told = await service.post(prompt="a", max_tokens=45, spec_decode_metrics="detailed")
    drawn, counts = await shown(tab), told["metrics"]["speculative_decoding"]
    kinds = {name: drawn[name] for name in ("draft", "bonus", "corrected", "plain")}
    # Four whole turns of eleven tokens, and the plain step of a fifth.
    assert kinds == {"draft": 24, "bonus": 8, "corrected": 8, "plain": 5}
    assert sum(kinds.values()) == told["usage"]["completion_tokens"]
    assert drawn["draft"] == drawn["accepted"] == counts["num_accepted_draft_tokens"]
    assert drawn["verified"] == counts["num_draft_tokens"]
    assert drawn["steps"] - drawn["plain"] == counts["num_spec_steps"]
    assert drawn["drafted"] == 4 * (2 + 5 + 7 + 5)
    assert await tab.value(f"[...{field('legend')}.querySelectorAll('output')].map(one => Number(one.value))") == [
        *kinds.values()
    ]
    assert "Every count is the server's own" in said
    assert tab.errors == []


@pytest.mark.slow
async def test_tokens_appear_while_the_answer_comes(tab, settings):
    async with running(settings, VariedEngine(step_s=0.1)) as service:
        await visit(tab, service.url, max_tokens="200", prompt="a")
        await tab.value(f"{field('run')}.click()")
        first = await tab.until("document.querySelectorAll('#answer .token').length")
        await tab.until(f"document.querySelectorAll('#answer .token').length > {first}")
        assert await tab.value(f"{field('progress')}.dataset.state") == "streaming"
        await tab.value(f"{field('stop')}.click()")
        await tab.until(IS_DONE)


async def test_text_stays_text(tab, settings):
    async with running(settings, VariedEngine(text=EVIL)) as service:
        await visit(tab, service.url, max_tokens=str(len(EVIL)), prompt=EVIL.decode())
        await run(tab)
        drawn = await tab.value(
            "[...document.querySelectorAll('#answer .tokens')].map(one => one.textContent).join('')"
        )
        assert drawn == EVIL.decode().replace("\n", "")
        assert await tab.value("document.querySelectorAll('#answer :not(span, br)').length") == 0
        assert await tab.value("window.hit === undefined")
        assert tab.errors == []


async def test_the_policy_keeps_markup_from_being_made_at_all(tab, settings):
    async with running(settings, VariedEngine()) as service:
        await visit(tab, service.url)
        with pytest.raises(RuntimeError, match="TrustedHTML"):
            await tab.value("document.body.innerHTML = '<b>bold</b>'")


async def test_a_person_with_a_keyboard_reaches_everything_and_escape_stops(tab, settings):
    async with running(settings, VariedEngine(step_s=0.1)) as service:
        await visit(tab, service.url, max_tokens="400", prompt="a")
        await tab.value("document.activeElement.blur()")
        reached, outlines = [], set()
        for _ in range(60):
            await tab.press("Tab")
            name, outline = await tab.value(
                "[document.activeElement.id || document.activeElement.className || document.activeElement.tagName, "
                "getComputedStyle(document.activeElement).outlineStyle]"
            )
            if name == "BODY":
                break
            reached.append(name)
            outlines.add(outline)
        wanted = {
            "key-button",
            "theme",
            "prompt",
            "temperature",
            "seed",
            "max-tokens",
            "max-drafts",
            "drafter",
            "policy",
        }
        assert wanted | {"run", "show-colours", "show-lengths", "answer", "group", "pause", "skip"} <= set(reached)
        assert outlines == {"solid"}
        await tab.value(f"{field('prompt')}.focus()")
        await tab.press("Enter", CTRL)
        await tab.until("document.querySelectorAll('#answer .token').length")
        await tab.press("Escape")
        await tab.until(IS_DONE)
        said = await tab.value(f"{field('progress')}.textContent")
    assert said.startswith("Stopped:")
    assert "Every count is the server's own" in said


@pytest.mark.slow
async def test_choices_reach_the_server_as_they_were_made(tab, settings):
    engine = VariedEngine()
    async with running(settings, engine) as service:
        await visit(tab, service.url, max_tokens="5", prompt="a", temperature="0.5", seed="11", max_drafts="3")
        await tab.until(f"{field('policy')}.options.length > 1")
        await tab.value(f"{field('policy')}.value = 'fixed'; document.querySelector('[value=completion]').click()")
        await run(tab)
    (request,) = engine.seen
    assert (request.sampling.max_tokens, request.sampling.temperature, request.sampling.seed) == (5, 0.5, 11)
    assert (request.speculation.max_drafts, request.speculation.policy, request.speculation.drafter) == (
        3,
        "fixed",
        None,
    )
    assert request.prompt_ids == (ord("a"),)


async def test_a_temperature_left_empty_is_the_targets_own_which_the_field_shows(tab, settings, tmp_path):
    (tmp_path / "model" / "generation_config.json").write_text('{"temperature": 0.6}')
    engine = VariedEngine()
    async with running(settings, engine) as service:
        await visit(tab, service.url, max_tokens="5", prompt="a")
        shown = await tab.until(
            f"{field('temperature')}.placeholder.includes('(') && {field('temperature')}.placeholder"
        )
        await run(tab)
    assert (shown, engine.seen[0].sampling.temperature) == ("default (0.6)", 0.6)


async def test_a_server_with_keys_asks_for_one_and_it_is_kept_in_the_tab_alone(tab, settings, tmp_path):
    write_keys(tmp_path / "keys.toml", {"alice": ApiKey(sha256=hash_of("sk-alice"))})
    server = msgspec.structs.replace(settings.server, api_keys_file=str(tmp_path / "keys.toml"))
    async with running(msgspec.structs.replace(settings, server=server), VariedEngine()) as service:
        await visit(tab, service.url, max_tokens="5", prompt="a")
        await tab.until(f"{field('key-dialog')}.open")
        assert await tab.value("document.activeElement.id") == "key"
        await tab.type("sk-alice")
        await tab.press("Enter")
        await tab.until(f"{field('status')}.dataset.state === 'told'")
        assert "5 tokens" in await run(tab)
        stored = await tab.value("[sessionStorage.length, Object.keys(localStorage), document.cookie]")
    assert stored == [1, [], ""]


async def refused(tab, url):
    await visit(tab, url, max_tokens="5", prompt="a")
    await tab.value(f"{field('run')}.click()")
    await tab.until(f"!{field('error')}.hidden")
    again = await tab.value(f"(({{hidden, disabled}}) => [hidden, disabled])({field('error')}.querySelector('button'))")
    return await tab.value(f"{field('error')}.textContent"), again


@pytest.mark.slow
async def test_a_full_queue_says_when_to_try_again(tab, settings):
    queue = msgspec.structs.replace(settings.queue, max_queued_requests=1)
    engine = VariedEngine(step_s=0.2)
    async with running(msgspec.structs.replace(settings, queue=queue), engine) as service:
        busy = asyncio.create_task(service.post(prompt="a", max_tokens=100))
        while not engine.running:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        said, again = await refused(tab, service.url)
        busy.cancel()
    assert "Try again in" in said
    assert again == [False, True]


@pytest.mark.slow
async def test_a_wrong_request_says_what_is_wrong(tab, settings):
    async with running(settings, VariedEngine(max_model_len=16)) as service:
        await visit(tab, service.url, max_tokens="500", prompt="a")
        await tab.value(f"{field('run')}.click()")
        said = await tab.until(f"!{field('error')}.hidden && {field('error')}.textContent")
    assert "16" in said


class CuttingProxy:
    """Stands before a gateway, and breaks every stream of events after the next so many bytes."""

    def __init__(self, http, url, num_bytes):
        self.http, self.url, self.num_bytes, self.num_cuts = http, url, num_bytes, 0

    async def handle(self, request):
        headers = {name: request.headers[name] for name in ("Content-Type", "Last-Event-ID") if name in request.headers}
        headers["Idempotency-Key"] = request.headers.get("Idempotency-Key", "none")
        body = await request.read()
        async with self.http.request(request.method, self.url + request.path, headers=headers, data=body) as answer:
            kept = {
                name: answer.headers[name]
                for name in ("Content-Type", "Content-Security-Policy")
                if name in answer.headers
            }
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            left = self.num_bytes if request.path.endswith("/events") else 1 << 30
            async for data in answer.content.iter_any():
                await response.write(data[:left])
                left -= len(data)
                if left <= 0:
                    self.num_cuts += 1
                    # What was written leaves first: each line that is cut has brought something.
                    request.transport.close()
                    break
            return response


@pytest.mark.slow
async def test_a_stream_that_is_cut_goes_on_with_nothing_lost_or_twice(tab, settings, unused_tcp_port):
    async with running(settings, VariedEngine()) as service:
        proxy = CuttingProxy(service.http, service.url, 2500)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", proxy.handle)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
        await visit(tab, f"http://127.0.0.1:{unused_tcp_port}", max_tokens="45", prompt="a")
        said = await run(tab)
        drawn = await shown(tab)
        await runner.cleanup()
    assert proxy.num_cuts >= 2
    assert "45 tokens" in said
    assert "Every count is the server's own" in said
    assert [drawn[name] for name in ("draft", "bonus", "corrected", "plain")] == [24, 8, 8, 5]


@pytest.mark.slow
async def test_a_server_that_goes_away_is_told_and_so_is_its_return(tab, settings):
    async with running(settings, VariedEngine()) as service:
        await visit(tab, service.url)
    await tab.until(f"{field('status')}.dataset.state === 'away' && !{field('notice')}.hidden")
    async with running(settings, VariedEngine()):
        await tab.until(f"{field('status')}.dataset.state === 'told' && {field('notice')}.hidden")
