"""Settings of what is kept of a process's work: logs, traces and recorded answers."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from core.setting_types import Name


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


class RecordingSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Prompts and answers kept as JSONL, for drafters to learn from; off without a folder.

    folder         where workers write; None records nothing
    share          of answers, drawn by their jobs' ids
    max_file_mib   size at which a file is ended and the next begun
    max_total_mib  of all files in the folder; the oldest are removed
    redactor       "contacts", or a name that an installed package has registered in `specd.redactors`: what it leaves
                   of prompt and answer is recorded, and without their token ids. An answer that it fails on is not
    """

    folder: Name | None = None
    share: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0
    max_file_mib: Annotated[int, Meta(ge=1, le=1 << 20)] = 64
    max_total_mib: Annotated[int, Meta(ge=2, le=1 << 24)] = 1024
    redactor: Name | None = None
