"""The engine's process: what it may run ahead of, what it must wait for, and how the worker hears of its end."""

import asyncio
import os
import signal
import socket
import time

import msgspec
import pytest

from bench.footprints import descendants
from client.wire import WireError
from core.config import (
    BatchTableSettings,
    DSparkSettings,
    EngineSettings,
    NgramSettings,
    PluginSettings,
    Settings,
)
from core.errors import CheckpointError, ConfigError, EngineError, ReplicaLost, SpecdError
from core.experiments.spec import make_experiment
from core.grammar import Grammar, GrammarKind
from core.types import Emission, FinishReason, Request, Sampling, Speculation, TokenLogprobs
from service.engine_process import thread
from service.engine_process.client import EngineGone, engine_at
from service.engine_process.messages import (
    LENGTH,
    Add,
    Build,
    Call,
    Counted,
    Failure,
    LoadDrafter,
    MakeArms,
    Ready,
    ServeArm,
    Stepped,
    framed,
    heard_decoder,
    told_decoder,
)
from service.engine_process.start import STOP_S, engine_process
from service.worker import serve_queue
from tests.service.fakes import FakeEngine, served, until_true
from tests.service.test_main import needs_demo


def asking(name, prompt=(65,), max_tokens=30):
    return Request(name, prompt, Sampling(max_tokens=max_tokens), nonce=1)


@pytest.fixture(params=[False, True], ids=["on the CPU", "on a device"])
async def started(request):
    engine = FakeEngine(runs_apart=request.param)
    async with served(engine) as client:
        yield client, engine


async def test_it_is_at_most_one_step_ahead_of_its_reader(started):
    client, engine = started
    client.add(asking("a"))
    await until_true(lambda: engine.num_steps == 2)
    await asyncio.sleep(0.05)
    assert engine.num_steps == 2
    await client.step()
    await until_true(lambda: engine.num_steps == 3)
    await asyncio.sleep(0.05)
    assert engine.num_steps == 3


async def test_it_tells_how_long_its_reader_kept_it_waiting(started):
    client, _ = started
    client.add(asking("a"))
    await asyncio.sleep(0.1)
    assert client.held_s < 0.05
    for _ in range(3):
        await client.step()
    assert 0.05 < client.held_s < 5


async def test_every_step_is_read_once_and_in_order(started):
    client, _ = started
    client.add(asking("a", max_tokens=30))
    assert client.has_work
    tokens = []
    while True:
        [emission] = (await client.step()).emissions
        tokens += emission.token_ids
        if emission.finish_reason is not None:
            break
    assert len(tokens) == 30
    assert not client.has_work
    await until_true(lambda: client.snapshot["emitted"] == 30)


async def test_after_a_failed_step_it_rests_until_that_is_dealt_with(started):
    client, engine = started
    client.add(asking("a"))
    await until_true(lambda: engine.num_steps == 2)
    # Behind two steps that nobody has read yet, one that fails.
    client.add(asking("broken", prompt=(1,)))
    await client.step()
    await client.step()
    with pytest.raises(SpecdError, match="the step broke"):
        await client.step()
    await asyncio.sleep(0.05)
    client.abort("broken")
    [emission] = (await client.step()).emissions
    assert emission.request_id == "a"
    assert engine.aborted == ["broken"]


async def test_a_request_that_the_engine_refuses_is_told_with_the_step(started):
    client, _ = started
    client.add(asking("bad", prompt=(0,)))
    stepped = await client.step()
    assert [(name, error.code) for name, error in stepped.refused] == [("bad", "zero")]
    assert stepped.emissions == []


@pytest.mark.parametrize("has_backlog", [False, True])
async def test_a_freed_slot_is_given_a_moment_where_jobs_wait_and_only_there(started, monkeypatch, has_backlog):
    monkeypatch.setattr(thread, "REFILL_S", 5.0)
    client, _ = started
    client.refilled(has_backlog=has_backlog)
    client.add(asking("short", max_tokens=3))
    client.add(asking("long", max_tokens=9))
    ended = None
    while ended is None:
        ended = {each.request_id: each.finish_reason for each in (await client.step()).emissions}.get("short")
    # Were it not waiting, two more steps would have been made by now, and the engine would be done.
    await asyncio.sleep(0.05)
    begun = time.perf_counter()
    client.add(asking("joins", max_tokens=3))
    client.refilled(has_backlog=has_backlog)
    second = await client.step()
    assert ("joins" in [emission.request_id for emission in second.emissions]) == has_backlog
    assert time.perf_counter() - begun < 2.0


class Noting(FakeEngine):
    """Notes what is done with it, and by `notes` what is told of it."""

    def __init__(self, **how):
        super().__init__(runs_apart=True, **how)
        self.notes = []

    def step(self, meanwhile=None):
        self.notes.append(f"step {self.num_steps + 1}")
        return super().step(meanwhile)

    def told(self, heard):
        self.notes.append(type(heard).__name__.lower())


def stepped_to_its_end(engine, num_tokens):
    """Step in the thread until there is no work, as fast as its reader could read."""
    one = thread.EngineThread(engine, lambda heard: engine.told(heard) or one.read())
    one.add(asking("a", max_tokens=num_tokens))
    one.start()
    while engine.has_work or not engine.num_steps or engine.notes[-1] != "counted":
        time.sleep(0.001)
    one.close()


def test_a_step_of_a_device_is_told_of_while_it_runs_the_next_and_the_last_at_once(monkeypatch):
    monkeypatch.setattr(thread, "SNAPSHOT_S", 60.0)
    engine = Noting()
    stepped_to_its_end(engine, 12)
    # The first step is counted, the last ends all work: of both is told at once.
    assert engine.notes == [
        *("step 1", "stepped", "counted"),
        *("step 2", "step 3", "stepped", "step 4", "stepped", "stepped", "counted"),
    ]


def test_what_a_device_has_done_is_told_of_where_it_is_closed_at_work(monkeypatch):
    monkeypatch.setattr(thread, "SNAPSHOT_S", 60.0)
    engine = Noting(step_s=0.002)
    one = thread.EngineThread(engine, lambda heard: engine.told(heard) or one.read())
    one.add(asking("a", max_tokens=400))
    one.start()
    while engine.num_steps < 5:
        time.sleep(0.001)
    one.close()
    assert engine.has_work
    assert engine.notes.count("stepped") == engine.num_steps


def test_a_step_before_one_that_breaks_is_told_of_first(monkeypatch):
    class Breaking(Noting):
        def step(self, meanwhile=None):
            if self.num_steps == 3:
                raise RuntimeError("no")
            return super().step(meanwhile)

    monkeypatch.setattr(thread, "SNAPSHOT_S", 60.0)
    engine = Breaking()
    one = thread.EngineThread(engine, lambda heard: engine.told(heard) or one.read())
    one.add(asking("a"))
    one.start()
    while "broken" not in engine.notes:
        time.sleep(0.001)
    one.close()
    assert engine.notes[-3:] == ["stepped", "stepped", "broken"]


async def test_closing_ends_it_even_where_nobody_reads():
    async with served(FakeEngine()) as client:
        client.add(asking("a", max_tokens=300))
        await asyncio.sleep(0.02)
    assert not client.is_gone


async def test_closing_ends_it_where_a_failed_step_was_never_dealt_with():
    async with served(FakeEngine()) as client:
        client.add(asking("broken", prompt=(1,)))
        with pytest.raises(SpecdError):
            await client.step()


async def test_a_worker_that_is_gone_ends_it():
    engine = FakeEngine(step_s=0.01)
    async with served(engine) as client:
        client.add(asking("a", max_tokens=500))
        await client.step()
        client._connection.abort()
        await until_true(lambda: client.is_gone)
        num_steps = engine.num_steps
        await asyncio.sleep(0.1)
        # It was one step ahead at most.
        assert engine.num_steps <= num_steps + 2


async def test_whoever_waits_for_an_engine_that_is_gone_is_told():
    ours, theirs = socket.socketpair()
    theirs.sendall(thread_ready())
    async with engine_at(ours) as client:
        waiting = [asyncio.create_task(each) for each in (client.step(), client.counts())]
        await asyncio.sleep(0.01)
        theirs.close()
        for each in waiting:
            with pytest.raises(EngineGone):
                await each
        assert client.is_gone
        with pytest.raises(EngineGone):
            await client.counts()


def thread_ready():
    return framed(Ready(512, 4, {}, None, serves_arms=False))


def test_whatever_can_be_told_comes_out_as_it_went_in():
    settings = Settings(
        drafter=NgramSettings(max_drafts=3),
        drafters={"own": PluginSettings(name="mine", options={"depth": 2, "rates": [0.5, "x"]}), "d": DSparkSettings()},
        policies={"table": BatchTableSettings(lengths=((1, 2, 7), (3, 4096, 2)))},
    )
    sampling = Sampling(
        *(8, 0.5, 0.9, 40, 0.01, -(2**63), 0.5, -0.5, 1.1),
        logit_bias=((3, -1.5),),
        stop=("end",),
        logprobs=3,
        grammar=Grammar(GrammarKind.REGEX, "a+"),
    )
    request = Request("a:1", (1, 2), sampling, 2**64 - 1, (3,), 1, 2**64 - 1, "salt", Speculation(2, "own"), 0, 1.5)
    experiment = make_experiment(
        {"id": "x", "arms": {"a": {"policy": "fixed", "parameters": {"length": 4}}, "b": {"policy": "off"}}}, "test"
    )
    orders = (LoadDrafter("own", NgramSettings()), MakeArms(experiment), ServeArm(None))
    for told in (Build(settings), Add(request), *(Call(number, order) for number, order in enumerate(orders))):
        assert told_decoder.decode(framed(told)[LENGTH.size :]) == told
    logprobs = (TokenLogprobs(-0.5, 1, (7, 8), (-0.5, -1.5)),)
    emission = Emission("a:1", (7,), 3, 2, 1, FinishReason.STOP, None, logprobs, 4, 5)
    stepped = Stepped([emission], [("b:1", WireError("no", 400, "code", "n"))], 3, True, 0.25)
    for heard in (stepped, Counted({"steps": 1, "seconds": {"verify": 0.5}})):
        assert heard_decoder.decode(framed(heard)[LENGTH.size :]) == heard


@pytest.mark.parametrize("error", [ConfigError("a"), ReplicaLost("b"), EngineError("c"), CheckpointError("d")])
def test_an_error_of_ours_is_raised_as_what_it_is_and_others_with_their_names(error):
    raised = Failure.of(error).error()
    assert str(raised) == str(error)
    assert isinstance(error, type(raised))
    assert str(Failure.of(KeyError("x")).error()) == "KeyError('x')"


# --- For real ------------------------------------------------------------------------------------------------------

DEMO = Settings(engine=EngineSettings(profile=False, max_num_seqs=4, max_model_len=256, kv_cache_tokens=1024))


@needs_demo
async def test_a_real_engine_answers_takes_a_drafter_in_and_its_death_is_heard_of():
    async with engine_process(DEMO) as client:
        assert (client.num_slots, client.max_model_len) == (4, 256)
        await client.load_drafter("lookup", NgramSettings(max_drafts=2))
        assert "lookup" in client.drafters
        with pytest.raises(ConfigError, match="nowhere"):
            await client.unload_drafter("nowhere")
        client.add(asking("a", prompt=(5, 6, 7), max_tokens=5))
        tokens = []
        while len(tokens) < 5:
            for emission in (await client.step()).emissions:
                tokens += emission.token_ids
        assert (await client.counts())["emitted"] == 5
        client.add(asking("b", max_tokens=200))
        os.kill(descendants(os.getpid())["engine"], signal.SIGKILL)
        with pytest.raises(EngineGone):
            await step_forever(client)


async def test_a_worker_that_is_stopped_while_its_engine_is_built_ends_at_once():
    stop, begun = asyncio.Event(), time.monotonic()
    serving = asyncio.create_task(serve_queue(DEMO, stop))
    await until_true(lambda: "engine" in descendants(os.getpid()))
    stop.set()
    await serving
    assert time.monotonic() - begun < STOP_S
    assert "engine" not in descendants(os.getpid())


async def step_forever(client):
    while True:
        await client.step()


async def test_what_keeps_an_engine_from_being_built_is_raised_here(tmp_path):
    settings = msgspec.structs.replace(DEMO, engine=EngineSettings(target=str(tmp_path / "nothing")))
    with pytest.raises(SpecdError, match="nothing"):
        async with engine_process(settings):
            pass
