"""A response as OpenAI's typed events. Their numbers follow from the job's stream, which is never rewritten.

So whoever has the events up to a number goes on after it on any gateway: they are spelt anew from the first one, and
those that the client has are left out.
"""

from typing import Any

from client.wire import Chunk, Final
from core.errors import RequestError
from service.followers import Events
from service.http_border import check_final
from service.respond import next_event
from service.response_body import ResponseBody, text_part
from service.sse import EventResponse, event, send


class ResponseEvents:
    """Sends one client the events of a response whose number is greater than `after`."""

    def __init__(self, body: ResponseBody, after: int = -1) -> None:
        self._body, self._after = body, after
        self._number = 0
        self._chunks: list[Chunk] = []

    async def send(self, stream: EventResponse, events: Events) -> None:
        """Send the events as they come, up to the end; raises RequestError if the service gives the answer up."""
        await self._open(stream)
        while True:
            _, message = await next_event(events, stream)
            if isinstance(message, Final):
                break
            self._chunks.append(message)
            await self._delta(stream, message.text)
        if not self._body.asked.background:
            # Nobody cancels an answer whose client waits, unless the service gives it up.
            check_final(message)
        await self._delta(stream, message.tail)
        await self._close(stream, message)

    async def fail(self, stream: EventResponse, error: RequestError) -> None:
        """Send the last event of a response that goes no further here."""
        await self._send(stream, "response.failed", response=self._body.failed(error))

    async def _open(self, stream: EventResponse) -> None:
        item = self._body.message("", "in_progress") | {"content": []}
        status = "queued" if self._body.asked.background else "in_progress"
        await self._send(stream, "response.created", response=self._body.standing(status))
        await self._send(stream, "response.in_progress", response=self._body.standing("in_progress"))
        await self._send(stream, "response.output_item.added", output_index=0, item=item)
        await self._send_part(stream, "response.content_part.added", part=text_part(""))

    async def _delta(self, stream: EventResponse, text: str) -> None:
        if text:
            await self._send_part(stream, "response.output_text.delta", delta=text, logprobs=[])

    async def _close(self, stream: EventResponse, final: Final) -> None:
        body = self._body.ended(self._chunks, final)
        for item in body["output"]:
            (part,) = item["content"]
            await self._send_part(stream, "response.output_text.done", text=part["text"], logprobs=[])
            await self._send_part(stream, "response.content_part.done", part=part)
            await self._send(stream, "response.output_item.done", output_index=0, item=item)
        # OpenAI has no event of its own for a cancelled response: it is one that is not complete.
        kind = "incomplete" if body["status"] == "cancelled" else body["status"]
        await self._send(stream, f"response.{kind}", response=body)

    async def _send_part(self, stream: EventResponse, kind: str, **fields: Any) -> None:
        await self._send(stream, kind, item_id=self._body.item_id, output_index=0, content_index=0, **fields)

    async def _send(self, stream: EventResponse, kind: str, **fields: Any) -> None:
        number, self._number = self._number, self._number + 1
        if number > self._after:
            told = event({"type": kind, "sequence_number": number} | fields)
            await send(stream, f"event: {kind}\n".encode() + told)
