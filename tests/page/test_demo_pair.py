"""The demo pair, drafting and verifying for real: what the page draws is what the engine counted."""

import asyncio

import msgspec

from core.config import EngineSettings
from engine.build import build_engine
from models.folders import target_folder
from models.tokenizer import Tokenizer
from service.worker import work
from tests.page.engine import run, shown, visit
from tests.service.fakes import Service, gateway, health, served, until

FIELDS = {"prompt": "Hugo buys 37 apples for 3 dollars each. How many dollars does Hugo pay?", "max_tokens": "96"}


async def test_the_page_draws_what_the_engine_counted(tab, settings):
    engine_settings = EngineSettings(profile=False, max_num_seqs=4, max_model_len=512, kv_cache_tokens=2048)
    settings = msgspec.structs.replace(settings, engine=engine_settings)
    engine = build_engine(settings)
    stop = asyncio.Event()
    async with served(engine) as told, asyncio.TaskGroup() as group, gateway(settings, ready_status=503) as http:
        group.create_task(work(settings, stop, told, Tokenizer(target_folder("demo"))))
        await until(lambda: health(http, settings), 200)
        service = Service(settings, engine, http)
        await visit(tab, service.url, **FIELDS)
        said = await run(tab)
        drawn = await shown(tab)
        # From here on the page asks in vain.
        errors = list(tab.errors)
        stop.set()
    stats = engine.stats
    assert "Every count is the server's own" in said
    assert (drawn["accepted"], drawn["verified"], drawn["drafted"]) == (stats.accepted, stats.verified, stats.drafted)
    assert drawn["draft"] == stats.accepted > 0
    assert sum(drawn[sign] for sign in ("draft", "bonus", "corrected", "plain")) == stats.emitted
    # The step that fills the prompt in is one of the engine's rounds, and the plain one here.
    assert drawn["steps"] == stats.rounds
    assert drawn["corrected"] > 0
    assert errors == []
