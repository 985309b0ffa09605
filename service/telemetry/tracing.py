"""Traces, which are off unless a collector is named: then service/telemetry/otel.py is what stands behind this."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp.typedefs import Middleware

from client.wire import Final
from core.errors import ConfigError
from core.observing import TracingSettings
from core.registry import OPTIONAL
from service.storage.claims import Claim
from service.telemetry.answer_log import AnswerRecord
from service.telemetry.phases import Stopwatch


class Tracing:
    """No traces: nothing is recorded, and nothing is paid for it."""

    @property
    def middlewares(self) -> list[Middleware]:
        """What a gateway puts around its handlers."""
        return []

    def traceparent(self) -> str:
        """Return the span at hand as a W3C traceparent, "" if there is none."""
        return ""

    def answered(self, record: AnswerRecord) -> None:
        """Hear what became of the request at hand, in its gateway."""

    def worked(self, claim: Claim, watch: Stopwatch, final: Final) -> None:
        """Hear of a job's end, in its worker."""

    def close(self) -> None:
        """Send what is not sent yet; may take seconds."""


@asynccontextmanager
async def open_tracing(settings: TracingSettings, role: str, given: Tracing | None = None) -> AsyncIterator[Tracing]:
    """Trace for as long as the context lasts, as the settings ask or with what is given; raises as `make_tracing`."""
    tracing = given or make_tracing(settings, role)
    try:
        yield tracing
    finally:
        await asyncio.to_thread(tracing.close)


def make_tracing(settings: TracingSettings, role: str) -> Tracing:
    """Return what the settings ask for; raises ConfigError if its library is missing."""
    if settings.endpoint is None:
        return Tracing()
    try:
        make = OPTIONAL.load("tracing")
    except ConfigError as error:
        raise ConfigError(
            "tracing.endpoint needs the library opentelemetry: pip install 'specd[otel]', or leave it unset"
        ) from error
    tracing: Tracing = make(settings, role)
    return tracing
