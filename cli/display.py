"""Show an answer as it comes: accepted drafts in colour, the target's own tokens plain, then one line of numbers."""

import asyncio
import time
from collections.abc import AsyncIterable

from msgspec import Struct
from rich.console import Console

from client.wire import Chunk, Final
from core.errors import SpecdError
from core.types import FinishReason

DRAFTED = "green"


class Tally(Struct, frozen=True):
    """What one answer cost its user; seconds run from the question to the last token."""

    tokens: int
    steps: int
    verified: int
    seconds: float

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second as the user saw them, the wait for the first one included."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def accepted_len(self) -> float:
        """Mean tokens per step, the target's own token included."""
        return self.tokens / self.steps if self.steps else 0.0

    @property
    def verify_len(self) -> float:
        """Mean drafts verified per step."""
        return self.verified / self.steps if self.steps else 0.0

    def __str__(self) -> str:
        return (
            f"{self.tokens} tokens in {self.seconds:.2f} s, {self.tokens_per_s:.0f} tokens/s, "
            f"accepted length {self.accepted_len:.2f}, verify length {self.verify_len:.2f}"
        )


def show_answer(console: Console, events: AsyncIterable[Chunk | Final]) -> tuple[str, Tally]:
    """Print an answer while it streams, without a line end; return its text and what it cost.

    Raises SpecdError if the answer failed or stopped short of its end.
    """
    return asyncio.run(_show_answer(console, events))


def show_summary(console: Console, tally: Tally) -> None:
    """End the answer's line and print its numbers in one."""
    console.print()
    console.print(str(tally), style="dim", highlight=False)


async def _show_answer(console: Console, events: AsyncIterable[Chunk | Final]) -> tuple[str, Tally]:
    started = time.perf_counter()
    text: list[str] = []
    tokens = steps = verified = 0
    async for event in events:
        if isinstance(event, Final):
            _show(console, event.tail, drafted=False)
            if event.error is not None or event.reason is FinishReason.ERROR:
                reason = event.error.message if event.error else "no reason given"
                raise SpecdError(f"the answer failed: {reason}")
            answer = "".join(text) + event.tail
            return answer, Tally(tokens, steps, verified, time.perf_counter() - started)
        for index, piece in enumerate(event.pieces):
            _show(console, piece, drafted=index < event.num_drafts)
        text.append(event.text)
        tokens, steps, verified = tokens + len(event.token_ids), steps + 1, verified + event.verified
    raise SpecdError("the stream ended before the answer did")


def _show(console: Console, text: str, *, drafted: bool) -> None:
    # An answer is data: brackets in it are no markup, numbers no reason for colour, and its lines are its own.
    style = DRAFTED if drafted else None
    console.print(text, style=style, end="", markup=False, highlight=False, soft_wrap=True, emoji=False)
