"""A real engine behind a real worker takes turns between arms, writes every unit down, and stops when told to."""

import asyncio
import uuid

import pytest
from msgspec.structs import replace

from client.wire import Job, units_stream
from core.config import FixedSettings
from core.errors import ConfigError
from core.experiments.analysis import analyse
from core.experiments.assignment import arm_of_slot
from core.experiments.spec import make_experiment
from core.experiments.unit_sums import UnitRecord, UnitSums
from core.types import Sampling, Speculation
from engine.engine import Engine
from policies.fixed import Fixed
from service.engine_process.arm_host import EngineArms
from service.experiments import follower, store
from service.experiments.books import ClosedUnit, ExperimentBooks
from service.experiments.follower import ExperimentFollower
from service.experiments.store import ExperimentStore
from service.queue import JobQueue
from service.tasks import is_cancelled
from tests.service.fakes import until, until_true, worker
from tests.service.jobs import end_of
from toys import SHAPE, tiny_dspark, tiny_target

SLOT_S = 0.4


@pytest.fixture(autouse=True)
def look_often(monkeypatch):
    monkeypatch.setattr(follower, "POLL_S", 0.05)


@pytest.fixture(scope="module")
def target():
    return tiny_target(257)


def experiment_of(**fields):
    values = {
        "id": "live",
        "arms": {
            "long": {"policy": "fixed", "parameters": {"length": 4}},
            "short": {"policy": "fixed", "parameters": {"length": 1}},
        },
        "slot": {"seconds": SLOT_S, "burn_in_s": SLOT_S / 4},
        "stop": {"pre_blocks": 1, "min_blocks": 2, "max_blocks": 50},
        "guardrails": {},
    }
    return make_experiment(values | fields, "test")


def make_job(max_tokens=40, speculation=None):
    return Job(
        uuid.uuid4().hex,
        "fake",
        (5, 6, 7, 5, 6, 7, 5),
        Sampling(max_tokens=max_tokens, temperature=0.0),
        nonce=b"n" * 16,
        created_ms=1,
        speculation=speculation or Speculation(),
    )


class Stage:
    """A worker with a tiny engine, kept busy, and the experiment's place in Redis."""

    def __init__(self, settings, queue: JobQueue, target):
        self.settings = replace(settings, engine=replace(settings.engine, profile=False))
        self.queue = queue
        self.engine = Engine(target, {"dspark": tiny_dspark(target)}, {"fixed": lambda: Fixed(2)}, SHAPE, ())
        self.store = ExperimentStore(queue.client, "fake")
        self.arms = EngineArms(self.engine, self.settings)

    def run(self):
        return worker(self.settings, self.engine, arms=self.arms)

    async def start(self, experiment):
        return await self.store.start(experiment, await self.queue.now_ms() / 1000)

    async def feed(self):
        while not is_cancelled():
            job = make_job()
            await self.queue.submit(job)
            await end_of(self.queue.client, job)


@pytest.fixture
async def stage(settings, queue, target):
    return Stage(settings, queue, target)


async def test_units_are_served_by_turns_counted_and_analysed(stage):
    experiment = experiment_of()
    async with stage.run(), asyncio.TaskGroup() as group:
        feed = group.create_task(stage.feed())
        standing = await stage.start(experiment)
        await until(lambda: has_measured_both(stage), True, timeout_s=120.0)
        await stage.store.stop(standing.run, "seen enough")
        await until_true(lambda: not any(key[1].startswith("live/") for key in stage.engine.groups.by_key))
        feed.cancel()
    records = await stage.store.records("live")
    for record in records:
        assert record.arm == arm_of_slot(experiment.salt, experiment.weights, record.slot)
        assert record.is_pre is (record.slot < standing.first_slot + 2)
    # With one draft a round nothing but it can be verified; the control's four are what is served before, too.
    short = [record.sums for record in records if record.arm == "short" and not record.is_pre]
    others = [record.sums for record in records if record.arm == "long" or record.is_pre]
    assert all(sums.verified <= sums.rounds for sums in short)
    assert sum(sums.verified for sums in others) > sum(sums.rounds for sums in others)
    for record in records:
        assert record.late.tokens <= record.sums.tokens
        assert record.late.seconds == pytest.approx(record.sums.seconds / 2, abs=0.1)
    found = analyse(experiment, records)
    assert found.num_blocks >= 2 > found.num_pre_blocks
    assert found.values["short"]["tokens_per_s"].value > 0


async def test_before_the_comparison_every_arm_is_served_as_the_control(stage):
    async with stage.run(), asyncio.TaskGroup() as group:
        feed = group.create_task(stage.feed())
        await stage.start(experiment_of(stop={"pre_blocks": 1000}))
        await until(lambda: has_measured_short(stage), True, timeout_s=120.0)
        feed.cancel()
    short = [record.sums for record in await stage.store.records("live") if record.arm == "short"]
    assert sum(sums.verified for sums in short) > sum(sums.rounds for sums in short)


async def has_measured_short(stage):
    records = await stage.store.records("live")
    return sum(record.sums.rounds for record in records if record.arm == "short") > 5


async def has_measured_both(stage):
    records = [record for record in await stage.store.records("live") if not record.is_pre]
    rounds = {arm: sum(record.sums.rounds for record in records if record.arm == arm) for arm in ("long", "short")}
    return min(rounds.values()) > 5 and len(records) > 4


async def test_a_request_that_says_what_it_wants_is_left_alone_and_not_counted(stage):
    async with stage.run():
        await stage.start(experiment_of(stop={"pre_blocks": 0}))
        await until_true(lambda: stage.engine.groups._choose is not None)
        job = make_job(speculation=Speculation(policy="fixed"))
        await stage.queue.submit(job)
        await end_of(stage.queue.client, job)
        other = make_job()
        await stage.queue.submit(other)
        await end_of(stage.queue.client, other)
    names = {policy for (_, policy), counts in stage.engine.stats.groups.items() if counts.rounds}
    assert "fixed" in names
    assert names & {"live/long", "live/short"}


async def test_a_harm_in_the_records_stops_the_experiment_for_everybody(stage):
    experiment = experiment_of(guardrails={"step_s": 1.1}, stop={"pre_blocks": 0, "trip": 1.3, "trip_blocks": 2})
    standing = await stage.start(experiment)
    for slot in range(standing.first_slot - 40, standing.first_slot - 34):
        arm = arm_of_slot(experiment.salt, experiment.weights, slot)
        sums = UnitSums(seconds=1.0, busy_s=2.0 if arm == "short" else 1.0, steps=100, tokens=500)
        await stage.store.put(UnitRecord(experiment.id, experiment.digest, "other", slot, arm, sums))
    async with stage.run():
        await until(lambda: is_stopped(stage), True, timeout_s=30.0)
        assert "step_s was worse by more than 1.3 in 2 blocks running" in (await stage.store.read()).stopped
        await until_true(lambda: stage.engine.groups._choose is None)


async def is_stopped(stage):
    return (await stage.store.read()).stopped is not None


class RecordingEngine:
    """In the engine's place: it writes down what it is asked, and how many units were in the books by then."""

    def __init__(self, store: ExperimentStore):
        self.store, self.asked = store, []

    async def make_arms(self, experiment):
        pass

    async def end_arms(self):
        pass

    async def counts(self):
        self.asked.append(("counts", None, len(await self.store.records("live"))))
        return {"steps": len(self.asked)}

    async def serve_arm(self, arm):
        self.asked.append(("serve", arm, len(await self.store.records("live"))))


async def following(stage, engine, until_so):
    """Follow experiments with an engine until something is so."""
    task = asyncio.create_task(ExperimentFollower(stage.queue, "w", engine).follow())
    try:
        await until(until_so, True, timeout_s=30.0)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_next_arm_is_served_before_the_books_of_the_one_before_are_closed(stage):
    engine = RecordingEngine(stage.store)
    await stage.start(experiment_of())
    await following(stage, engine, lambda: has_records(stage, 1))
    kinds = [kind for kind, _, _ in engine.asked]
    second = kinds.index("serve", 1)
    # Counted at the end of its burn-in and at its own, then the next one's turn; the books are empty still.
    assert kinds[second - 2 : second + 1] == ["counts", "counts", "serve"]
    assert engine.asked[second][2] == 0


async def has_records(stage, number):
    return len(await stage.store.records("live")) >= number


async def test_a_unit_that_was_seen_to_be_over_long_after_its_end_is_not_counted(stage):
    standing = await stage.start(experiment_of())
    engine = RecordingEngine(stage.store)
    followed = ExperimentFollower(stage.queue, "w", engine)
    turn = follower.Turn(standing.first_slot, "long", is_pre=False, is_whole=True)
    turn.counter = follower.UnitCounter(standing.experiment, lambda claim: "long", {})
    end_s = (standing.first_slot + 1) * SLOT_S
    assert await followed._closed(standing, turn, end_s + 0.01) is not None
    assert await followed._closed(standing, turn, end_s + 30.0) is None


async def test_no_unit_is_dropped_for_another_and_what_is_full_ends_the_experiment(stage, monkeypatch):
    monkeypatch.setattr(store, "MAX_RECORDS", 10)
    standing = await stage.start(experiment_of())
    experiment = standing.experiment
    # Redis trims a hundred entries at a time, so that fewer would show nothing.
    records = [
        UnitRecord("live", experiment.digest, "w", standing.first_slot + n, "long", UnitSums(), is_pre=True)
        for n in range(300)
    ]
    books = ExperimentBooks(stage.store, 10)
    books.close(ClosedUnit(standing, tuple(records), is_pre=True))
    task = asyncio.create_task(books.keep())
    await until(lambda: is_stopped(stage), True)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [one.slot for one in await stage.store.records("live")] == [one.slot for one in records]
    assert (await stage.store.read()).stopped == "its 300 units are as many as are kept of an experiment"


async def is_judged(stage, books, unit):
    return unit.records[-1] in books._known


async def test_what_was_read_is_not_read_again_and_the_first_reason_to_stop_stays(stage):
    guarded = {"guardrails": {"step_s": 1.1}, "stop": {"pre_blocks": 0, "trip": 1.3, "trip_blocks": 2}}
    standing = await stage.start(experiment_of(**guarded))
    units = [ClosedUnit(standing, (harmed(standing, n),), is_pre=False) for n in range(4)]
    books = ExperimentBooks(stage.store)
    task = asyncio.create_task(books.keep())
    for unit in units[:2]:
        books.close(unit)
    await until(lambda: is_judged(stage, books, units[1]), True)
    await stage.queue.client.xtrim(units_stream("fake", "live"), maxlen=0)
    for unit in units[2:]:
        books.close(unit)
    await until(lambda: is_stopped(stage), True)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await stage.store.stop(standing.run, "by hand")
    assert "in 2 blocks running" in (await stage.store.read()).stopped


def harmed(standing, number):
    experiment, slot = standing.experiment, standing.first_slot + number
    arm = arm_of_slot(experiment.salt, experiment.weights, slot)
    sums = UnitSums(seconds=1.0, busy_s=2.0 if arm == "short" else 1.0, steps=100, tokens=500)
    return UnitRecord(experiment.id, experiment.digest, "w", slot, arm, sums)


async def test_a_worker_that_cannot_serve_an_arm_stops_the_experiment_and_says_why(stage):
    arms = {"a": {"policy": "fixed"}, "b": {"policy": "fixed", "drafter": "unheard"}}
    await stage.start(experiment_of(arms=arms))
    async with stage.run():
        await until(lambda: is_stopped(stage), True, timeout_s=30.0)
    assert "cannot serve it: unknown arms.b.drafter 'unheard'" in (await stage.store.read()).stopped


async def test_one_experiment_runs_at_a_time_and_results_are_never_mixed(stage):
    standing = await stage.start(experiment_of())
    with pytest.raises(ConfigError, match="'live' runs; two at once"):
        await stage.start(experiment_of(id="other"))
    await stage.store.stop(standing.run, "enough")
    await stage.store.put(UnitRecord("live", "d", "w", 1, "long", UnitSums()))
    with pytest.raises(ConfigError, match="results of an experiment 'live' already"):
        await stage.start(experiment_of())
    later = await stage.start(experiment_of(id="other"))
    # A stop that comes late is of the run it names.
    await stage.store.stop(standing.run, "too late")
    assert (await stage.store.read()) == later


def test_the_arms_are_those_that_the_settings_make(stage):
    arms = stage.arms.make(experiment_of(arms={"a": {"policy": "fixed", "max_drafts": 3}, "b": {"policy": "off"}}))
    assert (arms["a"].name, arms["a"].drafter, arms["a"].max_drafts) == ("live/a", None, 3)
    assert arms["a"].make().name == FixedSettings.__struct_config__.tag
