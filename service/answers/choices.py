"""One of an answer's choices, spelt for clients: its streamed chunks and its part of a whole answer."""

from collections.abc import Sequence
from typing import Any

from client.wire import Chunk, Final
from core.types import FinishReason
from service.answers.acceptance import Acceptance
from service.answers.answers import FINISH_REASONS, Answer, counted, usage_fields
from service.answers.logprobs import LogprobsWriter
from service.answers.tool_calls import ToolCallReader, whole_message


class ChoiceWriter:
    """Writes the choice `index`; logprobs and calls are None where nobody asked for them, or offered tools.

    num_tokens are those written so far.
    """

    def __init__(
        self, answer: Answer, index: int, logprobs: LogprobsWriter | None, calls: ToolCallReader | None = None
    ) -> None:
        self._answer, self._index, self._logprobs, self._calls = answer, index, logprobs, calls
        self._acceptance = Acceptance()
        self.num_tokens = 0

    @property
    def acceptance(self) -> dict[str, Any]:
        """What speculation did for what was written so far."""
        return self._acceptance.fields(is_detailed=self._answer.is_detailed)

    def opening(self) -> dict[str, Any] | None:
        """Return the first streamed chunk: for chats the one that names the role."""
        if not self._answer.style.is_chat:
            return None
        choice = {"index": self._index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        return self._answer.streamed([choice]) | self._answer.shown_prompt()

    def part(self, chunk: Chunk) -> dict[str, Any]:
        """Return a streamed chunk; `speculation` says which of its tokens were accepted drafts."""
        is_first, is_chat = self.num_tokens == 0, self._answer.style.is_chat
        choice = self._choice(chunk, None)
        self._acceptance.saw(chunk)
        if is_chat:
            choice["delta"] = self._delta(chunk.text)
        else:
            choice["text"] = self._answer.echoed + chunk.text if is_first else chunk.text
            choice |= self._answer.shown_prompt() if is_first else {}
        told: dict[str, Any] = {
            "token_ids": chunk.token_ids,
            "pieces": chunk.pieces,
            "num_drafts": chunk.num_drafts,
            "verified": chunk.verified,
        }
        if self._answer.is_detailed:
            told["drafted"] = chunk.verified + chunk.trimmed
        return self._answer.streamed([choice]) | {"speculation": told}

    def ending(self, final: Final) -> dict[str, Any]:
        """Return the streamed chunk that says why the choice ended."""
        choice: dict[str, Any] = {"index": self._index, "logprobs": None}
        if self._answer.style.is_chat:
            choice["delta"] = self._calls.end(final.tail) if self._calls else self._delta(final.tail)
        else:
            choice["text"] = final.tail if self.num_tokens else self._answer.echoed + final.tail
        return self._answer.streamed([choice | {"finish_reason": self._reason(final)}])

    def whole(self, chunks: Sequence[Chunk], final: Final) -> dict[str, Any]:
        """Return the choice in an answer that is not streamed."""
        for chunk in chunks:
            self._acceptance.saw(chunk)
        merged = _merged(chunks, with_logprobs=self._logprobs is not None)
        choice = self._choice(merged, FINISH_REASONS[final.reason])
        text = merged.text + final.tail
        if self._answer.style.is_chat:
            plain = {"role": "assistant", "content": text}
            choice["message"] = whole_message(self._calls, text) if self._calls else plain
            choice["finish_reason"] = self._reason(final)
        else:
            choice["text"] = self._answer.echoed + text
            choice |= self._answer.shown_prompt()
        return choice

    def _delta(self, text: str) -> dict[str, Any]:
        if self._calls:
            return self._calls.push(text)
        return {"content": text} if text else {}

    def _reason(self, final: Final) -> str:
        """Return why the choice ended: an answer that stopped with calls did so for their sake."""
        if final.reason is FinishReason.STOP and self._calls and self._calls.num_calls:
            return "tool_calls"
        return FINISH_REASONS[final.reason]

    def _choice(self, chunk: Chunk, reason: str | None) -> dict[str, Any]:
        """Return what both forms and both endpoints have in common."""
        self.num_tokens += len(chunk.token_ids)
        choice: dict[str, Any] = {
            "index": self._index,
            "finish_reason": reason,
            "logprobs": self._logprobs.spell(chunk) if self._logprobs else None,
        }
        if self._answer.prompt_ids is not None:
            choice["token_ids"] = chunk.token_ids
        return choice


def whole_body(
    answer: Answer, writers: Sequence[ChoiceWriter], chunks: Sequence[Sequence[Chunk]], finals: Sequence[Final]
) -> dict[str, Any]:
    """Return the body of an answer that is not streamed; chunks and finals are those of each of its choices."""
    choices = [writer.whole(parts, final) for writer, parts, final in zip(writers, chunks, finals, strict=True)]
    return answer.whole(choices) | sums(writers, finals)


def sums(writers: Sequence[ChoiceWriter], finals: Sequence[Final]) -> dict[str, Any]:
    """Return an answer's usage and metrics; what speculation did is told of one choice only, as in vLLM."""
    return usage_fields(counted(finals), writers[0].acceptance if len(writers) == 1 else None)


def _merged(chunks: Sequence[Chunk], *, with_logprobs: bool) -> Chunk:
    """Return all of a choice's rounds as one."""
    logprobs = tuple(row for chunk in chunks for row in chunk.logprobs or ()) if with_logprobs else None
    return Chunk(
        tuple(token_id for chunk in chunks for token_id in chunk.token_ids),
        tuple(piece for chunk in chunks for piece in chunk.pieces),
        logprobs=logprobs,
    )
