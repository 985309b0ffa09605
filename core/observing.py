"""Settings of what is told about a process's work: logs and traces."""

from typing import Annotated, Literal

from msgspec import Meta, Struct


class LogSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Logs go to stderr: `console` for people, `json` for collectors, one object per line."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["console", "json"] = "console"


class TracingSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """OpenTelemetry traces, sent over OTLP/HTTP; needs specd[otel].

    endpoint      where to, such as "http://collector:4318/v1/traces"; None makes none
    sample_ratio  share of requests that are traced if their client says nothing of it; one that sends a traceparent has
                  decided
    """

    endpoint: Annotated[str, Meta(pattern="^https?://.")] | None = None
    sample_ratio: Annotated[float, Meta(ge=0.0, le=1.0)] = 1.0
