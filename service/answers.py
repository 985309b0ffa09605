"""What OpenAI clients read back: bodies of whole answers, chunks of streamed ones, and errors."""

import time
from typing import Any

from msgspec import Struct

from client.wire import Chunk, Final, Speculated, Usage
from core.errors import RequestError
from core.types import FinishReason

# How our reasons are spelt for clients; the other reasons end a stream with an error instead.
FINISH_REASONS = {FinishReason.STOP: "stop", FinishReason.LENGTH: "length", FinishReason.CANCELLED: "abort"}
ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
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
    """The fixed part of one answer's bodies."""

    style: Style
    job_id: str
    model: str
    created: int

    @classmethod
    def new(cls, style: Style, job_id: str, model: str) -> "Answer":
        """Begin an answer now."""
        return cls(style, job_id, model, int(time.time()))

    def whole(self, text: str, final: Final) -> dict[str, Any]:
        """Return the body of an answer that is not streamed."""
        reason = FINISH_REASONS[final.reason]
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason, "logprobs": None}
        if self.style.is_chat:
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        return self._body(self.style.whole, [choice]) | usage_fields(final.usage, final.speculated)

    def opening(self) -> dict[str, Any] | None:
        """Return the first streamed chunk: for chats the one that names the role."""
        if not self.style.is_chat:
            return None
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        return self._body(self.style.streamed, [choice])

    def part(self, chunk: Chunk) -> dict[str, Any]:
        """Return a streamed chunk; `speculation` says which of its tokens were accepted drafts."""
        told = {
            "token_ids": chunk.token_ids,
            "pieces": chunk.pieces,
            "num_drafts": chunk.num_drafts,
            "verified": chunk.verified,
        }
        return self._streamed(chunk.text, None) | {"speculation": told}

    def ending(self, final: Final) -> dict[str, Any]:
        """Return the streamed chunk that says why the answer ended."""
        return self._streamed(final.tail, FINISH_REASONS[final.reason])

    def usage(self, final: Final) -> dict[str, Any]:
        """Return the last streamed chunk of clients that asked for usage: no choices."""
        return self._body(self.style.streamed, []) | usage_fields(final.usage, final.speculated)

    def _streamed(self, text: str, reason: str | None) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason, "logprobs": None}
        if self.style.is_chat:
            choice["delta"] = {"content": text} if text else {}
        else:
            choice["text"] = text
        return self._body(self.style.streamed, [choice])

    def _body(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.style.id_prefix + self.job_id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def usage_fields(usage: Usage, speculated: Speculated) -> dict[str, Any]:
    """Return the usage, and under vLLM's names what speculation did."""
    rounds, verified, accepted = speculated.rounds, speculated.verified, speculated.accepted
    return {
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
        },
        "metrics": {
            "speculative_decoding": {
                "num_spec_steps": rounds,
                "num_draft_tokens": verified,
                "num_accepted_draft_tokens": accepted,
                "mean_acceptance_length": usage.completion_tokens / rounds if rounds else None,
                "draft_acceptance_rate": accepted / verified if verified else None,
            }
        },
    }


def error_body(error: RequestError) -> dict[str, Any]:
    """Return an error as OpenAI clients expect it."""
    kind = ERROR_TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}
