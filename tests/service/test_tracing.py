"""A request's spans: one trace from the client through the gateway and Redis to the worker, without its text."""

import asyncio
import os
import sys
import time

import msgspec
import pytest
from aiohttp import ClientError, ClientSession, web
from redis.asyncio import Redis

from client.wire import INTAKE_FIELD, INTAKE_STREAM, job_key
from core.config import ENV_PREFIX, FixedSettings, Settings
from core.errors import ConfigError
from core.observing import TracingSettings
from core.registry import OPTIONAL
from layers import ROOT
from service.main import free_port
from service.telemetry.tracing import Tracing, make_tracing
from tests.service.fakes import TEXT, FakeEngine, Service, fake_settings, gateway, running, until, until_true, worker

SECRET = "xyzzy-plugh"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"
PARTS = ["specd.queue", "specd.prefill", "specd.decode"]


@pytest.fixture
def settings(redis_url, tmp_path):
    return msgspec.structs.replace(fake_settings(redis_url, tmp_path / "model"), policy=FixedSettings(2))


class Traced:
    """A service whose gateway and worker write their spans to one list."""

    def __init__(self, ratio: float = 1.0) -> None:
        otel = pytest.importorskip(
            "service.telemetry.otel", reason="specd[otel] brings opentelemetry", exc_type=ImportError
        )
        memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
        export = pytest.importorskip("opentelemetry.sdk.trace.export")
        self._exporter = memory.InMemorySpanExporter()
        settings = TracingSettings(sample_ratio=ratio)
        self.roles = [
            otel.OtelTracing(settings, role, export.SimpleSpanProcessor(self._exporter))
            for role in ("gateway", "worker")
        ]

    @property
    def spans(self) -> dict[str, object]:
        return {span.name: span for span in self._exporter.get_finished_spans()}

    async def after(self, *names: str) -> dict[str, object]:
        """Return all spans once there are those."""
        await until_true(lambda: set(names) <= set(self.spans))
        return self.spans


async def serve(settings, traced, engine, ask):
    """Run `ask(service)` against a traced service and return what it does."""
    at_gateway, at_worker = traced.roles
    async with worker(settings, engine, tracing=at_worker), gateway(settings, tracing=at_gateway) as http:
        return await ask(Service(settings, engine, http, asyncio.Event()))


async def test_a_requests_spans_are_one_trace_in_the_order_of_its_work(settings):
    traced = Traced()

    async def ask(service):
        url, body = f"{service.url}/v1/completions", {"prompt": SECRET, "max_tokens": 12, "user": "ada"}
        async with service.http.post(url, json=body, headers={"traceparent": SAMPLED}) as response:
            assert response.status == 200
        return await traced.after("POST /v1/completions", "specd.job")

    spans = await serve(settings, traced, FakeEngine(step_s=0.02), ask)
    whole, job = spans["POST /v1/completions"], spans["specd.job"]
    assert {format(span.context.trace_id, "032x") for span in spans.values()} == {TRACE}
    assert format(whole.parent.span_id, "016x") == PARENT
    assert job.parent.span_id == whole.context.span_id
    assert {spans[name].parent.span_id for name in PARTS} == {job.context.span_id}
    queue, prefill, decode = (spans[name] for name in PARTS)
    assert queue.end_time == prefill.start_time
    assert prefill.end_time == decode.start_time
    assert job.start_time == queue.start_time
    assert decode.end_time == job.end_time <= time.time_ns()
    assert prefill.end_time - prefill.start_time >= 0.02e9
    # The last tokens are no sooner than four steps after the claim, whenever the writer had time for the first.
    assert decode.end_time - prefill.start_time >= 4 * 0.02e9
    assert whole.resource.attributes["service.name"] == "specd-gateway"
    assert job.resource.attributes["service.name"] == "specd-worker"


async def test_attributes_have_the_conventions_names_and_no_text(settings):
    traced = Traced()

    async def ask(service):
        await service.post("/v1/chat/completions", messages=[{"role": "user", "content": SECRET}], max_tokens=6)
        return await traced.after("POST /v1/chat/completions", "specd.job")

    spans = await serve(settings, traced, FakeEngine(), ask)
    whole, job = spans["POST /v1/chat/completions"].attributes, spans["specd.job"].attributes
    for attributes in (whole, job):
        assert attributes["gen_ai.request.model"] == "fake"
        assert attributes["gen_ai.request.max_tokens"] == 6
        assert attributes["gen_ai.usage.output_tokens"] == 6
        assert attributes["gen_ai.response.finish_reasons"] == ("length",)
    assert whole["gen_ai.operation.name"] == "chat"
    assert whole["http.response.status_code"] == 200
    assert whole["gen_ai.response.time_to_first_chunk"] > 0
    assert (job["specd.epoch"], job["specd.drafts.accepted"]) == (1, 4)
    told = repr([(span.name, dict(span.attributes), span.events) for span in spans.values()])
    assert SECRET not in told
    assert TEXT[:6] not in told


@pytest.mark.parametrize(("ratio", "header", "is_traced"), [(1.0, UNSAMPLED, False), (0.0, SAMPLED, True)])
async def test_a_client_that_sends_a_traceparent_has_decided(settings, ratio, header, is_traced):
    traced = Traced(ratio)

    async def ask(service):
        body = {"prompt": "a", "max_tokens": 3}
        async with service.http.post(f"{service.url}/v1/completions", json=body, headers={"traceparent": header}):
            pass
        if is_traced:
            await traced.after("specd.job", "POST /v1/completions")

    await serve(settings, traced, FakeEngine(), ask)
    assert bool(traced.spans) is is_traced


async def test_of_the_others_as_many_as_the_ratio_says_are_traced(settings):
    traced = Traced(0.0)
    await serve(settings, traced, FakeEngine(), lambda service: service.post(prompt="a", max_tokens=3))
    assert traced.spans == {}


async def test_what_is_no_traceparent_is_as_none(settings):
    traced = Traced()

    async def ask(service):
        body, headers = {"prompt": "a", "max_tokens": 3}, {"traceparent": "00-zz\x09-'; DROP"}
        async with service.http.post(f"{service.url}/v1/completions", json=body, headers=headers) as response:
            assert response.status == 200
        return await traced.after("POST /v1/completions")

    assert (await serve(settings, traced, FakeEngine(), ask))["POST /v1/completions"].parent is None


async def test_a_job_straight_from_redis_has_a_trace_of_its_own(settings):
    traced = Traced()

    async def ask(service):
        async with Redis.from_url(service.redis_url) as redis:
            asked = msgspec.json.encode({"id": "ab" * 16, "prompt": "a", "max_tokens": 3})
            await redis.xadd(INTAKE_STREAM, {INTAKE_FIELD: asked})
        return await traced.after("specd.job")

    assert (await serve(settings, traced, FakeEngine(), ask))["specd.job"].parent is None


async def test_a_job_that_is_taken_over_stays_in_its_trace(settings):
    traced, engine = Traced(), FakeEngine(step_s=0.02)

    async def ask(service):
        async with Redis.from_url(service.redis_url) as redis:
            asking = asyncio.ensure_future(service.post(prompt="a", max_tokens=30))
            await until_true(lambda: engine.num_steps > 2)
            await redis.hincrby(job_key(engine.seen[0].id.split(":")[0]), "epoch", 1)
            assert (await asking)[0] == 200
        return await traced.after("specd.job", "POST /v1/completions")

    spans = await serve(settings, traced, engine, ask)
    assert spans["specd.job"].parent.span_id == spans["POST /v1/completions"].context.span_id
    assert spans["specd.job"].attributes["specd.epoch"] == 3
    # Its wait was the first worker's to tell.
    assert "specd.queue" not in spans


# --- Without traces ----------------------------------------------------------------------------------------------


def test_traces_are_off_unless_a_collector_is_named(monkeypatch):
    monkeypatch.setattr(OPTIONAL, "load", lambda name: pytest.fail("loaded"))
    assert type(make_tracing(Settings().tracing, "gateway")) is Tracing


def test_without_the_library_the_error_says_what_to_install(monkeypatch):
    def missing(name):
        raise ConfigError(f"{name} cannot be loaded")

    monkeypatch.setattr(OPTIONAL, "load", missing)
    with pytest.raises(ConfigError, match=r"pip install 'specd\[otel\]'"):
        make_tracing(TracingSettings("http://127.0.0.1:4318/v1/traces"), "worker")


async def test_a_job_carries_nothing_where_nobody_traces(settings):
    async with running(settings, FakeEngine(step_s=0.01)) as service, Redis.from_url(service.redis_url) as redis:
        url, body = f"{service.url}/v1/completions", {"prompt": "a", "max_tokens": 3}
        async with service.http.post(url, json=body, headers={"traceparent": SAMPLED}):
            pass
        job = await redis.hget(job_key(service.engine.seen[0].id.split(":")[0]), "job")
    assert job is not None
    assert b"trace" not in job


# --- Real processes ----------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_served_request_reaches_a_collector_from_both_processes(tmp_path):
    service = pytest.importorskip(
        "opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason="specd[otel] brings it"
    )
    received: list[tuple[str, str, str]] = []

    async def collect(request: web.Request) -> web.Response:
        message = service.ExportTraceServiceRequest.FromString(await request.read())
        for part in message.resource_spans:
            (name,) = (one.value.string_value for one in part.resource.attributes if one.key == "service.name")
            spans = (span for scope in part.scope_spans for span in scope.spans)
            received.extend((name, span.name, span.trace_id.hex()) for span in spans)
        return web.Response(content_type="application/x-protobuf")

    app = web.Application()
    app.router.add_post("/v1/traces", collect)
    runner = web.AppRunner(app)
    await runner.setup()
    collector, port = free_port("127.0.0.1"), free_port("127.0.0.1")
    await web.TCPSite(runner, "127.0.0.1", collector).start()
    environ = os.environ | {
        f"{ENV_PREFIX}TRACING__ENDPOINT": f"http://127.0.0.1:{collector}/v1/traces",
        f"{ENV_PREFIX}SERVER__PORT": str(port),
        f"{ENV_PREFIX}ENGINE__PROFILE": "false",
        f"{ENV_PREFIX}QUEUE__STATE_DIR": str(tmp_path),
        # A batch is sent after so many milliseconds at most.
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    command = [sys.executable, "-m", "cli.main", "serve"]
    server = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=environ)
    try:
        async with ClientSession() as http:
            await until(lambda: _status(http, port), 200, timeout_s=120)
            url, body = f"http://127.0.0.1:{port}/v1/completions", {"prompt": "1 + 1 =", "max_tokens": 8}
            async with http.post(url, json=body, headers={"traceparent": SAMPLED}) as response:
                assert response.status == 200
            wanted = {("specd-gateway", "POST /v1/completions"), *(("specd-worker", name) for name in PARTS)}
            await until_true(lambda: wanted <= {each[:2] for each in received}, timeout_s=30)
    finally:
        server.terminate()
        await server.wait()
        await runner.cleanup()
    assert {trace for *_, trace in received} == {TRACE}


async def _status(http: ClientSession, port: int) -> int:
    try:
        async with http.get(f"http://127.0.0.1:{port}/health") as response:
            return response.status
    except ClientError:
        return 0
