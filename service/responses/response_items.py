"""The output items of a response, built from its text as it comes: one message, and calls of functions.

The same chunks give the same items, on every gateway and at any time: events and whole bodies are both made of them.
"""

from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from service.answers.tool_calls import ToolCallReader

MESSAGE, CALL = "message", "function_call"


class Item(Struct):
    """One item; parts are its text or its arguments as they came, name that of the function called."""

    id: str
    type: str
    call_id: str = ""
    name: str = ""
    parts: list[str] = []

    def body(self, status: str) -> dict[str, Any]:
        """Return the item as a response shows it."""
        text = "".join(self.parts)
        if self.type == MESSAGE:
            content = [text_part(text)]
            return {"id": self.id, "type": MESSAGE, "role": "assistant", "status": status, "content": content}
        called = {"call_id": self.call_id, "name": self.name, "arguments": text}
        return {"id": self.id, "type": CALL, "status": status} | called

    def opening(self) -> dict[str, Any]:
        """Return the item as it is announced."""
        bare = Item(self.id, self.type, self.call_id, self.name).body("in_progress")
        return bare | {"content": []} if self.type == MESSAGE else bare


class Change(Struct, frozen=True):
    """More text of the item `index`, which begins with it if is_new."""

    index: int
    text: str
    is_new: bool


class ResponseItems:
    """Collects the items of one response; calls is None where no tools were offered, and all text is the message's."""

    def __init__(self, job_id: str, calls: ToolCallReader | None) -> None:
        self._job_id, self._calls = job_id, calls
        self.items: list[Item] = []
        if calls is None:
            self._open_message()

    def push(self, text: str) -> Iterator[Change]:
        """Take some more text of the answer, and yield what it adds."""
        yield from self._changes(self._calls.push(text) if self._calls else {"content": text})

    def end(self, text: str) -> Iterator[Change]:
        """Take the last text. An answer without any item becomes an empty message."""
        yield from self._changes(self._calls.end(text) if self._calls else {"content": text})
        if not self.items:
            yield Change(self._open_message(), "", is_new=True)

    def _changes(self, delta: dict[str, Any]) -> Iterator[Change]:
        text = delta.get("content", "")
        index = next((index for index, item in enumerate(self.items) if item.type == MESSAGE), None)
        if index is not None and text:
            yield self._more(index, text)
        elif text.strip():
            # White space around calls is no message.
            index = self._open_message()
            yield self._more(index, text.lstrip(), is_new=True)
        for call in delta.get("tool_calls", ()):
            yield self._called(call)

    def _called(self, call: dict[str, Any]) -> Change:
        function = call["function"]
        if "id" not in call:
            return self._more(len(self.items) - 1, function["arguments"])
        self.items.append(Item(f"fc_{self._job_id}_{call['index']}", CALL, call["id"], function["name"]))
        return self._more(len(self.items) - 1, function["arguments"], is_new=True)

    def _open_message(self) -> int:
        self.items.append(Item(f"msg_{self._job_id}", MESSAGE))
        return len(self.items) - 1

    def _more(self, index: int, text: str, *, is_new: bool = False) -> Change:
        self.items[index].parts.append(text)
        return Change(index, text, is_new=is_new)


def text_part(text: str) -> dict[str, Any]:
    """Return the only part of a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
