"""The live part in a real Chromium: charts that move under load, and a page that fits where it is looked at."""

import asyncio

import pytest

from tests.page.engine import VariedEngine, run, visit
from tests.service.fakes import running

KEYS = ("throughput", "trade-off", "lengths", "positions", "cost", "calibration", "queue", "workers", "arms")
MOVING = ("throughput", "trade-off", "positions")
POINTS = "Object.fromEntries([...document.querySelectorAll('figure')].map(one => [one.id, Number(one.dataset.points)]))"
DRAWN = "document.querySelector('#chart-{} .drawing').innerHTML"
# What a person sees of each pair of text and ground; as WCAG 2.2 has it, 4.5 for text.
CONTRASTS = """(() => {
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const rgb = (colour) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const light = ([r, g, b]) => [r, g, b].map((one) => one / 255)
        .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4))
        .reduce((sum, one, place) => sum + one * [0.2126, 0.7152, 0.0722][place], 0);
    const ground = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const colour = rgb(getComputedStyle(at).backgroundColor);
            if (colour[3] === 255) return colour;
        }
    };
    const hasText = (one) => [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    const seen = [...document.querySelectorAll('body *')].filter((one) => hasText(one) && one.checkVisibility()
        && !one.closest('svg, option, noscript, :disabled'));
    return seen.map((one) => {
        const [a, b] = [rgb(getComputedStyle(one).color), ground(one)].map(light).sort((x, y) => y - x);
        return [(a + 0.05) / (b + 0.05), `${one.tagName}.${one.className} ${one.textContent.slice(0, 20)}`];
    });
})()"""
SIDEWAYS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


class Load:
    """Four clients who ask again and again."""

    def __init__(self, service):
        self.service = service

    async def __aenter__(self):
        self.tasks = [asyncio.create_task(self._ask()) for _ in range(4)]

    async def __aexit__(self, *_):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _ask(self):
        while True:
            await self.service.post(prompt="a", max_tokens=60)


async def test_charts_move_under_load(tab, settings):
    async with running(settings, VariedEngine(step_s=0.01)) as service:
        await visit(tab, service.url)
        before = await tab.value(POINTS)
        async with Load(service):
            await tab.until("Number(document.querySelector('#chart-throughput').dataset.points) > 4")
            await tab.until("Number(document.querySelector('#chart-arms').dataset.points) > 0")
            first = {
                key: await tab.value(DRAWN.format(key)) for key in ("throughput", "trade-off", "positions", "queue")
            }
            for key, drawn in first.items():
                assert "<svg" in drawn, key
                await tab.until(f"{DRAWN.format(key)} !== {drawn!r}")
            figure = await tab.value("parseFloat(document.querySelector('#tiles dd').textContent)")
        after = await tab.value(POINTS)
    assert set(after) == {f"chart-{key}" for key in KEYS}
    assert all(
        after[f"chart-{key}"] > before[f"chart-{key}"] for key in ("throughput", "trade-off", "positions", "arms")
    )
    assert after["chart-workers"] == 1
    assert figure > 0
    assert tab.errors == []


@pytest.mark.slow
async def test_bars_are_the_engines_own_counts(tab, settings):
    engine = VariedEngine()
    async with running(settings, engine) as service:
        await visit(tab, service.url, max_tokens="45", prompt="a")
        await run(tab)
        await tab.until("Number(document.querySelector('#chart-positions').dataset.points) > 0")
        title = await tab.value("document.querySelector('#chart-positions rect title').textContent")
    assert (
        title
        == f"Position 1: verified in {engine.num_rounds} of {engine.num_rounds} steps, accepted in {engine.num_rounds}"
    )


@pytest.mark.parametrize(
    ("width", "height"),
    [(360, 740), pytest.param(768, 1024, marks=pytest.mark.slow), pytest.param(1280, 900, marks=pytest.mark.slow)],
)
async def test_it_fits(tab, settings, width, height):
    await tab.look(width, height)
    async with running(settings, VariedEngine()) as service:
        await visit(tab, service.url, max_tokens="45", prompt="a")
        await run(tab)
        async with Load(service):
            await tab.until("Number(document.querySelector('#chart-arms').dataset.points) > 0")
        assert await tab.value(SIDEWAYS) <= 0
        outside = await tab.value("""[...document.querySelectorAll('button, input, select, textarea, .token, figure')]
            .filter(one => one.checkVisibility()).map(one => [one.getBoundingClientRect(), one])
            .filter(([box]) => box.width < 1 || box.left < 0 || box.right > innerWidth + 0.5)
            .map(([, one]) => one.id || one.className)""")
    assert outside == []
    assert await tab.value("document.getElementById('run').getBoundingClientRect().height") >= (
        44 if width < 560 else 40
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_is_readable_in_light_and_in_dark(tab, settings, scheme):
    await tab.look(1280, 900, scheme)
    async with running(settings, VariedEngine()) as service:
        await visit(tab, service.url, max_tokens="45", prompt="a")
        await run(tab)
        contrasts = await tab.value(CONTRASTS)
        grounds = [await tab.value("getComputedStyle(document.body).backgroundColor")]
        for _ in range(3):
            await tab.value("document.getElementById('theme').click()")
            grounds.append(await tab.value("getComputedStyle(document.body).backgroundColor"))
    assert len(contrasts) > 60
    assert [one for one in contrasts if one[0] < 4.5] == []
    # System, light, dark, and system again.
    assert grounds[1] != grounds[2]
    assert grounds[0] == grounds[3] == grounds[1 if scheme == "light" else 2]


@pytest.mark.slow
async def test_colour_is_never_the_only_sign(tab, settings):
    async with running(settings, VariedEngine()) as service:
        await visit(tab, service.url, max_tokens="45", prompt="a")
        await run(tab)
    styles = {
        sign: await tab.value(f"getComputedStyle(document.querySelector('#answer .token.{sign}')).textDecorationStyle")
        for sign in ("draft", "bonus", "corrected", "plain")
    }
    assert styles == {"draft": "solid", "bonus": "double", "corrected": "wavy", "plain": "dotted"}
    assert "drafted" in await tab.value("document.querySelector('#answer .lengths').title")


async def test_no_request_leaves_the_origin_and_the_console_is_silent(tab, settings):
    async with running(settings, VariedEngine()) as service:
        await visit(tab, service.url, max_tokens="45", prompt="a")
        await run(tab)
        await tab.until("Number(document.querySelector('#chart-throughput').dataset.points) > 1")
        url = service.url
    assert len(tab.requests) > 12
    assert [one for one in tab.requests if not one.startswith(f"{url}/")] == []
    assert tab.errors == []


@pytest.mark.slow
async def test_nothing_moves_for_whom_wants_no_motion(tab, settings):
    async with running(settings, VariedEngine()) as service:
        await visit(tab, service.url, max_tokens="45", prompt="a")
        await run(tab)
        assert await tab.value("document.getAnimations().length") == 0
        await tab.look(1280, 900, motion="no-preference")
        assert await tab.until("document.getAnimations().length") > 0
