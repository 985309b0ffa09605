"""OpenTelemetry spans of requests: the gateway's whole, and within it a job's wait, its prefill and its decoding.

    POST /v1/completions            gateway: SERVER, from the request to its answer's end
    └─ specd.job                    worker: from the submission to the job's last token
       ├─ specd.queue               until it was claimed first
       ├─ specd.prefill             until its first tokens
       └─ specd.decode              until its last

The parent is the client's traceparent, if it sent one (https://www.w3.org/TR/trace-context/); the job carries the
gateway's. Attributes are those of the GenAI conventions (https://opentelemetry.io/docs/specs/semconv/gen-ai/), which
are still being developed; no text is among them. A worker makes its spans when a job ends: steps pay nothing.
"""

import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version

from aiohttp import web
from aiohttp.typedefs import Middleware
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from client.wire import Final, Job
from core.observing import TracingSettings
from core.types import FinishReason
from service.storage.claims import Claim
from service.telemetry.answer_log import AnswerRecord
from service.telemetry.phases import Stopwatch
from service.telemetry.tracing import Tracing

PROVIDER = "specd"
PREFIX = "/v1/"
SERVER_ERRORS = 500

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Attributes = dict[str, str | int | float | tuple[str, ...]]


def send_traces(settings: TracingSettings, role: str) -> "OtelTracing":
    """Return traces that go to the collector of the settings, in batches, from a thread of their own."""
    return OtelTracing(settings, role, BatchSpanProcessor(OTLPSpanExporter(endpoint=settings.endpoint)))


class OtelTracing(Tracing):
    """One process's spans; processor is given each when it ends."""

    def __init__(self, settings: TracingSettings, role: str, processor: SpanProcessor) -> None:
        resource = Resource.create(
            {"service.name": f"specd-{role}", "service.namespace": "specd", "service.version": version("specd")}
        )
        sampler = ParentBased(TraceIdRatioBased(settings.sample_ratio))
        self._provider = TracerProvider(sampler=sampler, resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("specd")
        self._propagator = TraceContextTextMapPropagator()

    # --- In a gateway ------------------------------------------------------------------------------------------

    @property
    def middlewares(self) -> list[Middleware]:
        """One, that opens a span for each request that may make a job."""

        @web.middleware
        async def traced(request: web.Request, handler: Handler) -> web.StreamResponse:
            resource = request.match_info.route.resource
            if request.method != "POST" or resource is None or not resource.canonical.startswith(PREFIX):
                return await handler(request)
            route = resource.canonical
            attributes = {"http.request.method": request.method, "http.route": route}
            attributes["gen_ai.operation.name"] = "chat" if "chat" in route else "text_completion"
            parent = self._propagator.extract(dict(request.headers))
            name = f"{request.method} {route}"
            with self._tracer.start_as_current_span(
                name, parent, SpanKind.SERVER, attributes, record_exception=False
            ) as span:
                response = await handler(request)
                span.set_attribute("http.response.status_code", response.status)
                if response.status >= SERVER_ERRORS:
                    span.set_status(StatusCode.ERROR)
                return response

        return [traced]

    def traceparent(self) -> str:
        """Return the span at hand."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        return carrier.get("traceparent", "")

    def answered(self, record: AnswerRecord) -> None:
        """Say of the span at hand what its request asked for and got."""
        span = trace.get_current_span()
        if not span.is_recording():
            return
        span.set_attributes(
            _asked(record.job)
            | {
                "gen_ai.request.choice.count": record.num_choices,
                "gen_ai.usage.input_tokens": record.usage.prompt_tokens,
                "gen_ai.usage.output_tokens": record.usage.completion_tokens,
                "gen_ai.response.finish_reasons": tuple(record.finish.split(",")),
                "specd.arm": record.job.arm,
                "specd.drafter": record.drafter,
                "specd.policy": record.policy,
                "specd.drafts.verified": record.speculated.verified,
                "specd.drafts.accepted": record.speculated.accepted,
                "specd.epoch_changes": record.epoch_changes,
            }
        )
        if record.first_s is not None:
            span.set_attribute("gen_ai.response.time_to_first_chunk", record.first_s)

    # --- In a worker -------------------------------------------------------------------------------------------

    def worked(self, claim: Claim, watch: Stopwatch, final: Final) -> None:
        """Make the spans of an ended job, with the times that it had."""
        job, clock = claim.job, _Clock()
        # An empty context, lest the span at hand, if there is one, be taken for the parent.
        parent = self._propagator.extract({"traceparent": job.trace}, Context()) if job.trace else Context()
        submitted_ns, claimed_ns = job.created_ms * 1_000_000, clock.at(watch.claimed_s)
        is_first = claim.epoch == 1
        begun_ns = min(submitted_ns, claimed_ns) if is_first else claimed_ns
        span = self._tracer.start_span(
            "specd.job", parent, SpanKind.CONSUMER, _worked(claim, final), start_time=begun_ns
        )
        inside = trace.set_span_in_context(span, Context())
        if is_first:
            self._part("specd.queue", inside, begun_ns, claimed_ns)
        ended_ns = clock.now_ns
        if watch.first_s is not None and watch.last_s is not None:
            first_ns, ended_ns = clock.at(watch.first_s), clock.at(watch.last_s)
            self._part("specd.prefill", inside, claimed_ns, first_ns)
            self._part("specd.decode", inside, first_ns, ended_ns)
        if final.reason is FinishReason.ERROR:
            span.set_status(StatusCode.ERROR)
        span.end(ended_ns)

    def _part(self, name: str, inside: Context, start_ns: int, end_ns: int) -> None:
        self._tracer.start_span(name, inside, start_time=start_ns).end(end_ns)

    def close(self) -> None:
        """Send what is not sent yet."""
        self._provider.shutdown()


class _Clock:
    """Turns readings of the performance counter into Unix time."""

    def __init__(self) -> None:
        self.now_ns, self._now_s = time.time_ns(), time.perf_counter()

    def at(self, read_s: float) -> int:
        """Return the nanoseconds of a moment that is past."""
        return self.now_ns - int((self._now_s - read_s) * 1e9)


def _asked(job: Job) -> Attributes:
    return {
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": job.model,
        "gen_ai.request.max_tokens": job.sampling.max_tokens,
        "gen_ai.request.temperature": job.sampling.temperature,
        "gen_ai.request.top_p": job.sampling.top_p,
        "gen_ai.response.id": job.id,
        "gen_ai.response.model": job.model,
    }


def _worked(claim: Claim, final: Final) -> Attributes:
    return _asked(claim.job) | {
        "gen_ai.usage.input_tokens": final.usage.prompt_tokens,
        "gen_ai.usage.output_tokens": final.usage.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": final.usage.cached_tokens,
        "gen_ai.response.finish_reasons": (str(final.reason),),
        "specd.choice": claim.job.n_index,
        "specd.epoch": claim.epoch,
        "specd.rounds": final.speculated.rounds,
        "specd.drafts.verified": final.speculated.verified,
        "specd.drafts.accepted": final.speculated.accepted,
    }
