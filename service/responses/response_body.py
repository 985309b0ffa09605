"""The body of one of OpenAI's responses: what was asked, how it stands, and the items that answer it."""

from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from client.wire import Chunk, Final, Usage
from core.errors import RequestError
from core.types import FinishReason, Sampling
from service.answers.acceptance import Acceptance
from service.answers.job_events import failure
from service.answers.tool_calls import call_reader
from service.responses.response_items import ResponseItems
from service.responses.response_request import ResponseRequest

ID_PREFIX = "resp_"
STATUSES = {
    FinishReason.STOP: "completed",
    FinishReason.LENGTH: "incomplete",
    FinishReason.CANCELLED: "cancelled",
    FinishReason.ERROR: "failed",
    FinishReason.DEADLINE: "failed",
}


class ResponseBody(Struct, frozen=True):
    """The fixed part of a response, from which its bodies are made; sampling is that of its job."""

    job_id: str
    model: str
    created: int
    asked: ResponseRequest
    sampling: Sampling

    def items(self) -> ResponseItems:
        """Return the items of a response of which nothing has come yet."""
        return ResponseItems(self.job_id, call_reader(self.job_id, self.asked.chat.callable_names))

    def standing(self, status: str) -> dict[str, Any]:
        """Return the body of a response that has no end yet."""
        asked = self.asked
        choice = asked.tool_choice or ("auto" if asked.tools else "none")
        return {
            "id": ID_PREFIX + self.job_id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": bool(asked.background),
            "error": None,
            "incomplete_details": None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "metadata": asked.metadata or {},
            "model": self.model,
            "output": [],
            "parallel_tool_calls": bool(asked.parallel_tool_calls),
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": asked.is_stored,
            "temperature": self.sampling.temperature,
            "text": {"format": _format(asked)},
            "tool_choice": msgspec.to_builtins(choice),
            "tools": msgspec.to_builtins(asked.tools or []),
            "top_p": self.sampling.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": asked.user,
        }

    def ended(self, chunks: Sequence[Chunk], final: Final) -> dict[str, Any]:
        """Return the body of a response that has ended, however it did."""
        acceptance, items = Acceptance(), self.items()
        for chunk in chunks:
            acceptance.saw(chunk)
            deque(items.push(chunk.text), maxlen=0)
        deque(items.end(final.tail), maxlen=0)
        return self.closed(items, acceptance, final)

    def closed(self, items: ResponseItems, acceptance: Acceptance, final: Final) -> dict[str, Any]:
        """Return the same of items that have had all their text."""
        if error := failure([final]):
            return self.failed(error)
        is_detailed = self.asked.spec_decode_metrics == "detailed"
        is_cut = final.reason is FinishReason.LENGTH
        status = "incomplete" if is_cut else "completed"
        return self.standing(STATUSES[final.reason]) | {
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "output": [item.body(status) for item in items.items],
            "usage": _usage(final.usage),
            "metrics": {"speculative_decoding": acceptance.fields(is_detailed=is_detailed)},
        }

    def failed(self, error: RequestError) -> dict[str, Any]:
        """Return the body of a response that came to nothing."""
        return self.standing("failed") | {"error": {"code": error.code, "message": error.message}}


def _format(asked: ResponseRequest) -> Any:
    form = asked.text.format if asked.text else None
    return {"type": "text"} if form is None else msgspec.to_builtins(form)


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.total_tokens,
    }
