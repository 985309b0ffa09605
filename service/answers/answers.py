"""What OpenAI clients read back: bodies of whole answers, frames of streamed ones, usage and errors."""

import time
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from client.wire import Final, Job, Usage
from core.errors import RequestError
from core.types import FinishReason
from service.openai import SharedFields

# How our reasons are spelt for clients; the other reasons end a stream with an error instead.
FINISH_REASONS = {FinishReason.STOP: "stop", FinishReason.LENGTH: "length", FinishReason.CANCELLED: "abort"}
ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    410: "not_found_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}


class Style(Struct, frozen=True):
    """How one endpoint spells its answers."""

    id_prefix: str
    whole: str
    streamed: str
    is_chat: bool


COMPLETION = Style("cmpl-", "text_completion", "text_completion", is_chat=False)
CHAT = Style("chatcmpl-", "chat.completion", "chat.completion.chunk", is_chat=True)


class Answer(Struct, frozen=True):
    """The fixed part of one answer's bodies.

    prompt_ids are there if the client asked for token ids, echoed is the prompt's text if it asked for that.
    is_detailed says that the metrics tell of every step.
    """

    style: Style
    job_id: str
    model: str
    num_prompt_tokens: int
    created: int
    prompt_ids: tuple[int, ...] | None = None
    wants_usage: bool = True
    wants_running_usage: bool = False
    is_detailed: bool = False
    echoed: str = ""
    fingerprint: str = ""

    @classmethod
    def new(cls, style: Style, job: Job, asked: SharedFields, *, fingerprint: str, echoed: str = "") -> "Answer":
        """Begin the answer now to a request whose first choice is `job`."""
        return cls(
            style,
            job.id,
            job.model,
            len(job.prompt_ids),
            int(time.time()),
            job.prompt_ids if asked.return_token_ids else None,
            asked.wants_usage,
            asked.wants_running_usage,
            asked.spec_decode_metrics == "detailed",
            echoed,
            fingerprint,
        )

    def whole(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the body of an answer that is not streamed, without its sums."""
        shown = self.shown_prompt() if self.style.is_chat else {}
        return self._body(self.style.whole, choices) | shown

    def streamed(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the body of a streamed chunk."""
        return self._body(self.style.streamed, choices)

    def shown_prompt(self) -> dict[str, Any]:
        """Return the prompt's ids if they were asked for."""
        return {} if self.prompt_ids is None else {"prompt_token_ids": self.prompt_ids}

    def running_usage(self, num_tokens: int) -> dict[str, Any]:
        """Return the usage of a choice that has so many tokens by now, if it was asked for."""
        return {"usage": token_counts(Usage(self.num_prompt_tokens, num_tokens))} if self.wants_running_usage else {}

    def _body(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.style.id_prefix + self.job_id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        }


def counted(finals: Sequence[Final]) -> Usage:
    """Return the sums over an answer's choices: the prompt once, cached where no choice had to compute it."""
    usages = [final.usage for final in finals]
    return Usage(
        usages[0].prompt_tokens,
        sum(one.completion_tokens for one in usages),
        min(one.cached_tokens for one in usages),
    )


def usage_fields(usage: Usage, acceptance: dict[str, Any] | None) -> dict[str, Any]:
    """Return the usage, and what speculation did for the answer (acceptance.py) where that is one choice's."""
    return {
        "usage": token_counts(usage) | {"prompt_tokens_details": {"cached_tokens": usage.cached_tokens}},
        "metrics": {"speculative_decoding": acceptance},
    }


def error_body(error: RequestError) -> dict[str, Any]:
    """Return an error as OpenAI clients expect it."""
    kind = ERROR_TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}


def token_counts(usage: Usage) -> dict[str, Any]:
    """Return the usage as counts of tokens."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
