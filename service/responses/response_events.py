"""A response as OpenAI's typed events. Their numbers follow from the job's stream, which is never rewritten.

So whoever has the events up to a number goes on after it on any gateway: they are spelt anew from the first one, and
those that the client has are left out.
"""

from collections.abc import Iterable
from typing import Any

from client.wire import Final
from core.errors import RequestError
from service.answers.acceptance import Acceptance
from service.answers.respond import next_event
from service.http.http_border import check_final
from service.responses.response_body import ResponseBody
from service.responses.response_items import MESSAGE, Change, text_part
from service.sse import EventResponse, event, send
from service.storage.followers import Events


class ResponseEvents:
    """Sends one client the events of a response whose number is greater than `after`."""

    def __init__(self, body: ResponseBody, after: int = -1) -> None:
        self._body, self._after = body, after
        self._number = 0
        self._items, self._acceptance = body.items(), Acceptance()

    async def send(self, stream: EventResponse, events: Events) -> None:
        """Send the events as they come, up to the end; raises RequestError if the service gives the answer up."""
        await self._open(stream)
        while True:
            _, message = await next_event(events, stream)
            if isinstance(message, Final):
                break
            self._acceptance.saw(message)
            await self._add(stream, self._items.push(message.text))
        if not self._body.asked.background:
            # Nobody cancels an answer whose client waits, unless the service gives it up.
            check_final(message)
        await self._add(stream, self._items.end(message.tail))
        await self._close(stream, message)

    async def fail(self, stream: EventResponse, error: RequestError) -> None:
        """Send the last event of a response that goes no further here."""
        await self._send(stream, "response.failed", response=self._body.failed(error))

    async def _open(self, stream: EventResponse) -> None:
        status = "queued" if self._body.asked.background else "in_progress"
        await self._send(stream, "response.created", response=self._body.standing(status))
        await self._send(stream, "response.in_progress", response=self._body.standing("in_progress"))
        for index in range(len(self._items.items)):
            await self._open_item(stream, index)

    async def _open_item(self, stream: EventResponse, index: int) -> None:
        item = self._items.items[index]
        await self._send(stream, "response.output_item.added", output_index=index, item=item.opening())
        if item.type == MESSAGE:
            await self._send_of(stream, "response.content_part.added", index, content_index=0, part=text_part(""))

    async def _add(self, stream: EventResponse, changes: Iterable[Change]) -> None:
        for change in changes:
            if change.is_new:
                await self._open_item(stream, change.index)
            if not change.text:
                continue
            if self._items.items[change.index].type == MESSAGE:
                told: dict[str, Any] = {"content_index": 0, "delta": change.text, "logprobs": []}
                await self._send_of(stream, "response.output_text.delta", change.index, **told)
            else:
                kind = "response.function_call_arguments.delta"
                await self._send_of(stream, kind, change.index, delta=change.text)

    async def _close(self, stream: EventResponse, final: Final) -> None:
        body = self._body.closed(self._items, self._acceptance, final)
        for index, item in enumerate(body["output"]):
            if item["type"] == MESSAGE:
                (part,) = item["content"]
                told: dict[str, Any] = {"content_index": 0, "text": part["text"], "logprobs": []}
                await self._send_of(stream, "response.output_text.done", index, **told)
                await self._send_of(stream, "response.content_part.done", index, content_index=0, part=part)
            else:
                told = {"name": item["name"], "arguments": item["arguments"]}
                await self._send_of(stream, "response.function_call_arguments.done", index, **told)
            await self._send(stream, "response.output_item.done", output_index=index, item=item)
        # OpenAI has no event of its own for a cancelled response: it is one that is not complete.
        kind = "incomplete" if body["status"] == "cancelled" else body["status"]
        await self._send(stream, f"response.{kind}", response=body)

    async def _send_of(self, stream: EventResponse, kind: str, index: int, **fields: Any) -> None:
        await self._send(stream, kind, item_id=self._items.items[index].id, output_index=index, **fields)

    async def _send(self, stream: EventResponse, kind: str, **fields: Any) -> None:
        number, self._number = self._number, self._number + 1
        if number > self._after:
            told = event({"type": kind, "sequence_number": number} | fields)
            await send(stream, f"event: {kind}\n".encode() + told)
