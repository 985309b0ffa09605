"""/metrics: its numbers are those that clients saw and engines told, whoever of Redis and the workers lives."""

import asyncio
import math
import re

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis

from client.wire import WORKERS_KEY, job_key, worker_key
from core.config import ArmSettings, FixedSettings, NgramSettings
from core.errors import QueueError
from layers import ROOT
from service.door.arms import Arms
from service.queue import JobQueue
from service.telemetry.worker_stats import (
    STATS_FIELD,
    EngineCounts,
    QueueTimes,
    WorkerStats,
    decode_stats,
    encode_stats,
)
from tests.service.fakes import FakeEngine, fake_settings, gateway, running, until, until_true, worker

ARMS = {"control": ArmSettings(policy="off"), "treatment": ArmSettings(drafter="dspark", max_drafts=3)}


@pytest.fixture
def settings(redis_url, tmp_path):
    return msgspec.structs.replace(fake_settings(redis_url, tmp_path / "model"), policy=FixedSettings(2))


class Scrape:
    """One answer of /metrics, read the way Prometheus reads it."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self._samples = [sample for family in self.families.values() for sample in family.samples]

    def total(self, name: str, **labels: str) -> float:
        """Return the sum over all series that have these labels; there must be one."""
        found = [one.value for one in self._samples if one.name == name and labels.items() <= one.labels.items()]
        assert found, f"no series {name} {labels}"
        return math.fsum(found)

    def labels(self, name: str, label: str) -> set[str]:
        return {one.labels[label] for one in self._samples if one.name == name}


async def scrape(service_or_http, settings) -> Scrape:
    http = getattr(service_or_http, "http", service_or_http)
    async with http.get(f"http://127.0.0.1:{settings.server.port}/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        return Scrape(await response.text())


async def scrape_until(service, settings, name: str, value: float, **labels: str) -> Scrape:
    """Scrape until the workers have told it."""
    seen: list[Scrape] = []

    async def ask() -> float:
        seen.append(await scrape(service, settings))
        return seen[-1].total(name, **labels)

    await until(ask, value)
    return seen[-1]


async def scrape_until_told(service, settings, name: str) -> float:
    """Scrape until there is such a series, and return its sum."""
    async with asyncio.timeout(10):
        while not (found := await scrape(service, settings)).families[name].samples:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return found.total(name)


# --- What clients saw --------------------------------------------------------------------------------------------


async def test_the_numbers_are_those_of_the_clients(settings):
    async with running(settings, FakeEngine()) as service:
        bodies = [(await service.post(prompt="a" * size, max_tokens=7 * size))[1] for size in (1, 2, 3)]
        # What speculation did for more than one choice is told by the parts alone.
        *parts, choices = await service.stream(prompt="ab", max_tokens=9, n=2, stream_options={"include_usage": True})
        streamed = await service.stream(prompt="abcd", max_tokens=10, stream_options={"include_usage": True})
        bodies += [streamed[-1], choices]
        found = await scrape(service, settings)
    rounds = [part["speculation"] for part in parts if "speculation" in part]
    spoken = [body["metrics"]["speculative_decoding"] for body in bodies[:-1]] + [
        {
            "num_spec_steps": len(rounds),
            "num_draft_tokens": sum(one["verified"] for one in rounds),
            "num_accepted_draft_tokens": sum(one["num_drafts"] for one in rounds),
        }
    ]
    usages = [body["usage"] for body in bodies]
    labels = {"model_name": "fake", "engine": "0", "arm": "", "drafter": "dspark", "policy": "fixed"}
    for name, told in (
        ("vllm:prompt_tokens_total", [usage["prompt_tokens"] for usage in usages]),
        ("vllm:generation_tokens_total", [usage["completion_tokens"] for usage in usages]),
        ("vllm:spec_decode_num_drafts_total", [one["num_spec_steps"] for one in spoken]),
        ("vllm:spec_decode_num_draft_tokens_total", [one["num_draft_tokens"] for one in spoken]),
        ("vllm:spec_decode_num_accepted_tokens_total", [one["num_accepted_draft_tokens"] for one in spoken]),
        ("vllm:spec_decode_num_accepted_tokens_per_pos_total", [one["num_accepted_draft_tokens"] for one in spoken]),
        ("vllm:request_prompt_tokens_sum", [usage["prompt_tokens"] for usage in usages]),
        ("vllm:request_generation_tokens_sum", [usage["completion_tokens"] for usage in usages]),
    ):
        assert found.total(name, **labels) == sum(told), name
    num_choices, num_rounds = 6, sum(one["num_spec_steps"] for one in spoken)
    assert found.total("vllm:request_success_total", finished_reason="length", **labels) == num_choices
    assert found.total("vllm:time_to_first_token_seconds_count", **labels) == num_choices
    assert found.total("vllm:e2e_request_latency_seconds_count", **labels) == num_choices
    assert found.total("vllm:inter_token_latency_seconds_count", **labels) == num_rounds - num_choices
    assert found.total("vllm:time_per_output_token_seconds_count", **labels) == num_rounds - num_choices
    assert found.total("vllm:request_params_n_sum", **labels) == num_choices
    assert found.total("vllm:request_params_max_tokens_sum", **labels) == 7 + 14 + 21 + 9 + 10
    assert found.total("vllm:request_max_num_generation_tokens_sum", **labels) == 7 + 14 + 21 + 9 + 10
    # One token of each prompt comes from the prefix cache.
    assert found.total("vllm:prompt_tokens_cached_total", **labels) == len(bodies)
    computed = found.total("vllm:prompt_tokens_by_source_total", source="local_compute", **labels)
    assert computed == found.total("vllm:prompt_tokens_total", **labels) - len(bodies)


async def test_accepted_drafts_are_told_by_position(settings):
    async with running(settings, FakeEngine()) as service:
        # Two rounds of three tokens, two of them drafts, then a round of one, which is a draft.
        await service.post(prompt="a", max_tokens=7)
        found = await scrape(service, settings)
    by_position = [found.total("vllm:spec_decode_num_accepted_tokens_per_pos_total", position=p) for p in ("0", "1")]
    assert by_position == [3, 2]
    assert found.labels("vllm:spec_decode_num_accepted_tokens_per_pos_total", "position") == {"0", "1"}


async def test_latencies_are_no_shorter_than_the_steps_were(settings):
    async with running(settings, FakeEngine(step_s=0.03)) as service:
        await service.post(prompt="a", max_tokens=12)
        found = await scrape(service, settings)
    first, last = (
        found.total("vllm:time_to_first_token_seconds_sum"),
        found.total("vllm:e2e_request_latency_seconds_sum"),
    )
    assert first >= 0.03
    assert last >= 4 * 0.03
    # What came late makes the time to what came after it shorter: only together are they as long as the steps.
    between = found.total("vllm:inter_token_latency_seconds_sum")
    assert first + between >= 4 * 0.03
    assert found.total("vllm:request_time_per_output_token_seconds_sum") == pytest.approx(between / 11)


async def test_how_answers_end_is_told(settings):
    async with running(settings, FakeEngine()) as service:
        await service.post(prompt="a", max_tokens=30, stop_token_ids=[ord("r")])
        await service.post(prompt=[0])
        found = await scrape(service, settings)
    assert found.total("vllm:request_success_total", finished_reason="stop") == 1
    assert found.total("vllm:request_success_total", finished_reason="error") == 1
    assert found.total("vllm:generation_tokens_total") == 2


async def test_a_request_that_could_not_be_queued_is_no_answer(settings, monkeypatch):
    async def away(*_):
        raise OSError("Redis is away")

    async with running(settings, FakeEngine()) as service:
        await service.post(prompt="a", max_tokens=3)
        monkeypatch.setattr(JobQueue, "submit", away)
        status, _ = await service.post(prompt="a", max_tokens=3)
        found = await scrape(service, settings)
    assert status == 503
    assert found.labels("vllm:request_success_total", "finished_reason") == {"length"}
    assert found.total("vllm:request_params_n_count") == 1


async def test_a_client_that_leaves_is_an_aborted_answer(settings):
    engine = FakeEngine(step_s=0.01)
    async with running(settings, engine) as service:
        asking = asyncio.ensure_future(service.post(prompt="a", max_tokens=400))
        await until_true(lambda: engine.num_steps > 2)
        asking.cancel()
        await until_true(lambda: engine.aborted)
        found = await scrape(service, settings)
    assert found.labels("vllm:request_success_total", "finished_reason") == {"abort"}
    assert found.total("vllm:request_success_total") == 1


async def test_what_is_refused_before_it_is_queued_counts_nowhere(settings):
    async with running(settings, FakeEngine()) as service:
        assert (await service.post(prompt=""))[0] == 400
        found = await scrape(service, settings)
    assert found.families["vllm:request_success"].samples == []


# --- Arms --------------------------------------------------------------------------------------------------------


async def test_each_arms_numbers_are_its_own(settings):
    settings = msgspec.structs.replace(settings, arms=ARMS)
    users = [f"user-{index}" for index in range(12)]
    arms = [Arms(ARMS).pick(user).name for user in users]
    engine = FakeEngine()
    async with running(settings, engine) as service:
        for user in users:
            await service.post(prompt="a", max_tokens=6, user=user)
        found = await scrape(service, settings)
    assert {arms.count("control"), arms.count("treatment")} != {0, 12}
    for arm, policy in (("control", "off"), ("treatment", "fixed")):
        labels = {"arm": arm, "drafter": "dspark", "policy": policy}
        assert found.total("vllm:request_success_total", **labels) == arms.count(arm)
        assert found.total("vllm:generation_tokens_total", **labels) == 6 * arms.count(arm)
    assert [request.speculation.policy == "off" for request in engine.seen] == [arm == "control" for arm in arms]


async def test_an_arm_whose_policy_brings_its_drafter_counts_under_that_drafter(settings):
    policies = {"chatty": FixedSettings(2, drafter="lookup")}
    arms = {"only": ArmSettings(policy="chatty")}
    settings = msgspec.structs.replace(settings, drafters={"lookup": NgramSettings()}, policies=policies, arms=arms)
    async with running(settings, FakeEngine()) as service:
        await service.post(prompt="a", max_tokens=3, user="ada")
        found = await scrape(service, settings)
    assert found.total("vllm:request_success_total", drafter="lookup", policy="chatty", arm="only") == 1


async def test_the_header_names_the_user_before_the_field(settings):
    settings = msgspec.structs.replace(settings, arms=ARMS)
    header = next(f"user-{i}" for i in range(100) if Arms(ARMS).pick(f"user-{i}").name == "control")
    body = next(f"user-{i}" for i in range(100) if Arms(ARMS).pick(f"user-{i}").name == "treatment")
    async with running(settings, FakeEngine()) as service:
        asked = {"prompt": "a", "max_tokens": 3, "user": body}
        url = f"{service.url}/v1/completions"
        async with service.http.post(url, json=asked, headers={"x-user-id": header}) as response:
            assert response.status == 200
        found = await scrape(service, settings)
    assert found.labels("vllm:request_success_total", "arm") == {"control"}


async def test_all_choices_of_a_request_share_one_arm(settings):
    settings = msgspec.structs.replace(settings, arms=ARMS)
    engine = FakeEngine()
    async with running(settings, engine) as service:
        await service.post(prompt="a", max_tokens=3, n=4)
        found = await scrape(service, settings)
    assert len({request.speculation for request in engine.seen}) == 1
    assert len(found.labels("vllm:request_success_total", "arm")) == 1


@pytest.mark.parametrize("asked", ["off", True, {"max_drafts": 1}], ids=str)
async def test_who_says_what_speculation_it_wants_is_outside_the_experiment(settings, asked):
    settings = msgspec.structs.replace(settings, arms=ARMS)
    async with running(settings, FakeEngine()) as service:
        await service.post(prompt="a", max_tokens=3, speculation=asked, user="ada")
        found = await scrape(service, settings)
    assert found.labels("vllm:request_success_total", "arm") == {""}
    drafter, policy = ("none", "off") if asked == "off" else ("dspark", "fixed")
    assert found.total("vllm:request_success_total", drafter=drafter, policy=policy) == 1


# --- What engines told -------------------------------------------------------------------------------------------


async def test_the_engines_counts_are_told_by_worker_drafter_and_policy(settings):
    engine = FakeEngine()
    async with running(settings, engine) as service:
        await service.post(prompt="a", max_tokens=9)
        found = await scrape_until(service, settings, "specd_engine_steps_total", 3)
    assert found.total("specd_redis_up") == found.total("specd_workers", model_name="fake") == 1
    assert found.total("vllm:num_requests_running") == found.total("vllm:num_requests_waiting") == 0
    assert (found.total("vllm:prefix_cache_queries_total"), found.total("vllm:prefix_cache_hits_total")) == (10, 4)
    assert found.total("specd_kv_reserved_bytes", group="target") == 4096
    assert found.total("specd_kv_reserved_bytes", group="recital") == 0
    assert found.total("specd_engine_step_seconds_total", part="verify") == 0.5
    assert found.total("specd_engine_fallbacks_total", part="policy") == 1
    group = {"drafter": "recital", "policy": "fixed", "model_name": "fake"}
    assert found.total("specd_engine_rounds_total", **group) == 3
    assert found.total("specd_engine_accepted_tokens_total", **group) == 6
    assert found.total("specd_engine_verified_tokens_per_pos_total", position="1", **group) == 3
    assert found.total("specd_accepted_length", **group) == 3.0
    assert found.total("vllm:request_queue_time_seconds_count") == 1
    assert found.total("specd_engine_allowed_tokens_total", **group) == 7
    assert found.total("specd_engine_expected_tokens_total", **group) == 4.5
    assert found.total("specd_speculation_benefit", **group) == 1.5
    told = [found.total(f"specd_speculation_{name}_seconds_total", **group) for name in ("plain", "spent")]
    assert told == [3.0, 2.0]
    assert found.total("vllm:cache_config_info", block_size="16", num_gpu_blocks="256") == 1
    assert (found.total("vllm:iteration_tokens_total_count"), found.total("vllm:iteration_tokens_total_sum")) == (3, 9)
    assert found.labels("vllm:num_requests_running", "engine") == {"0"}


async def test_the_way_out_is_timed(settings):
    async with running(settings, FakeEngine()) as service:
        await service.post(prompt="a", max_tokens=9)
        found = await scrape_until(service, settings, "specd_output_steps_total", 3)
    assert 0 < found.total("specd_output_seconds_total") < 3
    assert 0 <= found.total("specd_output_held_seconds_total") < 3


async def test_the_phases_of_ended_jobs_are_no_shorter_than_their_steps(settings):
    async with running(settings, FakeEngine(step_s=0.03)) as service:
        await service.post(prompt="a", max_tokens=12)
        found = await scrape_until(service, settings, "vllm:request_inference_time_seconds_count", 1)
    prefill, decode, both = (
        found.total(f"vllm:request_{phase}_time_seconds_sum") for phase in ("prefill", "decode", "inference")
    )
    assert prefill >= 0.03
    # The last tokens are no sooner than four steps after the claim, whenever the writer had time for the first.
    assert both == pytest.approx(prefill + decode)
    assert both >= 4 * 0.03


async def test_signs_of_life_are_as_old_as_they_are_and_redis_is_timed(settings):
    async with running(settings, FakeEngine()) as service:
        await scrape_until(service, settings, "specd_workers", 1)
        found = await scrape(service, settings)
        # A third of a lease between beats, however busy the machine is.
        assert 0 <= found.total("specd_heartbeat_age_seconds") < 30
        assert 0 < found.total("specd_redis_rtt_seconds") < 1
        redis_s = await scrape_until_told(service, settings, "specd_worker_redis_rtt_seconds")
    assert 0 < redis_s < 5


async def test_a_job_that_another_worker_held_counts_as_taken_over_and_its_late_writes_as_fenced(settings):
    slow = FakeEngine(step_s=0.02)
    async with running(settings, slow) as service, Redis.from_url(settings.queue.redis_url) as redis:
        asking = asyncio.ensure_future(service.post(prompt="a", max_tokens=300))
        await until_true(lambda: slow.num_steps > 2)
        job_id = slow.seen[0].id.split(":")[0]
        # Somebody else claims it, and this worker's next write comes too late.
        await redis.hincrby(job_key(job_id), "epoch", 1)
        await scrape_until(service, settings, "specd_fenced_writes_total", 1)
        asking.cancel()


async def test_requests_are_counted_by_route_and_class_of_status(settings):
    async with running(settings, FakeEngine()) as service:
        await service.post(prompt="a", max_tokens=3)
        await service.post(prompt="")
        await service.post("/v1/nothing/of/the/kind", prompt="a")
        for job_id in ("ab" * 16, "cd" * 16):
            async with service.http.get(f"{service.url}/v1/jobs/{job_id}"):
                pass
        found = await scrape(service, settings)
    route = {"handler": "/v1/completions", "method": "POST"}
    assert found.total("http_requests_total", status="2xx", **route) == 1
    assert found.total("http_requests_total", status="4xx", **route) == 1
    assert found.total("http_request_duration_seconds_count", **route) == 2
    # No client can make a series: neither by a path of its own, nor by an id in one.
    assert len(found.labels("http_requests_total", "handler") - {"/v1/completions", "none"}) == 1


async def test_how_well_survivals_are_calibrated_is_told_by_position(settings):
    async with running(settings, FakeEngine()) as service:
        await service.post(prompt="a", max_tokens=6)
        found = await scrape_until(service, settings, "specd_engine_steps_total", 2)
    group = {"drafter": "recital", "policy": "fixed", "model_name": "fake"}
    errors = [found.total("specd_calibration_error", position=position, **group) for position in ("0", "1")]
    assert errors == [0.01, 0.02]
    assert found.total("specd_calibration_brier", position="1", **group) == 0.2
    assert found.labels("specd_calibration_auc", "position") == {"0"}
    assert found.total("specd_calibration_rounds", **group) == 100
    lengths = [found.total(f"specd_calibration_{name}_length", **group) for name in ("predicted", "observed")]
    assert lengths == [2.5, 2.4]
    assert found.total("specd_calibration_fallback", **group) == 1
    assert found.total("specd_calibration_drift_alarms_total", **group) == 2


async def test_what_is_documented_is_what_is_there(settings):
    async with running(settings, FakeEngine()) as service:
        await service.post(prompt="a", max_tokens=6)
        found = await scrape_until(service, settings, "specd_engine_steps_total", 2)
    # A counter's family goes without the ending that its samples have.
    names = {name + "_total" * (family.type == "counter") for name, family in found.families.items()}
    documented = set(
        re.findall(r"`((?:vllm:|specd_|http_)\w+)`", (ROOT / "docs" / "operating.md").read_text(encoding="utf-8"))
    )
    assert documented == {name for name in names if not name.endswith("_created")}


async def test_running_and_waiting_jobs_are_told_apart(settings):
    engine = FakeEngine(step_s=0.02, num_slots=2)
    async with running(settings, engine) as service:
        asking = [asyncio.ensure_future(service.post(prompt="a", max_tokens=300)) for _ in range(5)]
        await until_true(lambda: len(engine.running) == 2)
        found = await scrape_until(service, settings, "vllm:num_requests_running", 2)
        assert found.total("vllm:num_requests_waiting") == 3
        assert found.total("vllm:kv_cache_usage_perc") == 1.0
        for one in asking:
            one.cancel()


async def test_workers_are_told_apart_and_a_dead_one_is_forgotten(settings):
    async with running(settings, FakeEngine()) as service:
        async with worker(settings, FakeEngine()):
            found = await scrape_until(service, settings, "specd_workers", 2)
            assert len(found.labels("specd_engine_steps_total", "worker")) == 2
        found = await scrape_until(service, settings, "specd_workers", 1)
        assert len(found.labels("specd_engine_steps_total", "worker")) == 1


async def test_a_worker_that_cannot_be_read_hides_none_of_the_others(settings):
    async with running(settings, FakeEngine()) as service, Redis.from_url(settings.queue.redis_url) as redis:
        await redis.sadd(WORKERS_KEY, "odd")
        await redis.hset(worker_key("odd"), mapping={"model": "fake", "max_model_len": 512, STATS_FIELD: b"{"})
        await scrape_until(service, settings, "specd_workers", 1)
        await redis.delete(worker_key("odd"))


async def test_without_a_worker_the_gateway_still_answers(settings):
    async with gateway(settings, ready_status=503) as http:
        found = await scrape(http, settings)
    assert (found.total("specd_redis_up"), found.total("specd_workers")) == (1, 0)


async def test_with_redis_out_of_reach_the_gateways_own_numbers_are_served(settings):
    async with running(settings, FakeEngine()) as service, Redis.from_url(settings.queue.redis_url) as redis:
        await service.post(prompt="a", max_tokens=6)
        await redis.client_pause(2500)
        found = await scrape(service, settings)
        assert found.total("specd_redis_up") == 0
        assert found.total("vllm:generation_tokens_total") == 6
        assert "specd_workers" not in found.families
        await scrape_until(service, settings, "specd_redis_up", 1)


# --- What workers tell -------------------------------------------------------------------------------------------


def test_what_a_worker_writes_a_gateway_reads():
    times = QueueTimes()
    for waited_s in (-1.0, 0.3, 0.31, 1e9):
        times.observe(waited_s)
    stats = decode_stats(encode_stats(FakeEngine().snapshot(), times))
    assert stats.queue_times.counts == [2, 1, *[0] * 19, 1]
    assert stats.queue_times.sum_s == pytest.approx(1e9 + 0.61)
    assert stats.engine.prefix_hits == 4


def test_fields_of_another_version_are_neither_missed_nor_in_the_way():
    assert decode_stats(b'{"engine": {"new": 1}, "newer": 2}') == WorkerStats(EngineCounts())


@pytest.mark.parametrize("data", [b"", b"{}", b'{"engine": {"steps": "many"}}'])
def test_what_is_no_stats_is_an_error(data):
    with pytest.raises(QueueError, match="stats cannot be read"):
        decode_stats(data)
