"""A job's events over HTTP, and the ids by which a client that lost its connection goes on exactly where it was.

An id says how much of every choice its holder has: per choice the number of its tokens, with an `f` once it has
finished, joined by dots ("12", "12f", "9.12f.3"); "end" is the last event's. A stream in Redis is never rewritten, so
the same events follow an id on every gateway. They are spelt anew from the first one, which is what keeps offsets and
half characters right, and those that the client has are left out.
"""

import re
from collections.abc import Sequence

from msgspec import Struct

from client.wire import Chunk, Final
from core.errors import RequestError
from core.types import FinishReason
from service.answers.answers import Answer, error_body, usage_fields
from service.answers.choices import ChoiceWriter, sums
from service.answers.job_records import Choice
from service.answers.respond import next_event
from service.http.http_border import check_final
from service.sse import DONE, EventResponse, event, send
from service.storage.followers import Events, Place

LAST_ID = "end"
PLACE = re.compile(r"(\d{1,9})(f?)", re.ASCII)


class Cursor(Struct, frozen=True):
    """How much a client has: a place in each choice, and whether it has the last event, too."""

    places: tuple[Place, ...]
    is_end: bool = False

    @property
    def id(self) -> str:
        """The id of the event that brings a client here."""
        return ".".join(f"{count}{'f' if finished else ''}" for count, finished in self.places)

    def later(self, index: int, place: Place) -> "Cursor":
        """Return the cursor of one who also has a choice up to `place`."""
        return Cursor((*self.places[:index], place, *self.places[index + 1 :]))


def read_cursor(text: str, choices: Sequence[Choice]) -> Cursor:
    """Read the id of an event of a job; "" stands for none. Raises RequestError for what cannot be one of its ids."""
    there = tuple((choice.num_tokens, int(choice.has_ended)) for choice in choices)
    if text == LAST_ID and all(choice.has_ended for choice in choices):
        return Cursor(there, is_end=True)
    found = [PLACE.fullmatch(part) for part in text.split(".")] if text else []
    places = tuple((int(one[1]), int(one[2] == "f")) for one in found if one)
    if not text:
        return Cursor(((0, 0),) * len(choices))
    if len(places) != len(found) or len(places) != len(choices) or any(map(_is_past, places, there)):
        raise RequestError(
            f"{text[:64]!r} is no id of an event of this job; send the `id` of the last event as it came",
            param="starting_after",
            code="bad_event_id",
        )
    return Cursor(places)


class JobEvents:
    """Sends one client what it lacks."""

    def __init__(self, answer: Answer, choices: Sequence[ChoiceWriter], after: Cursor) -> None:
        self._answer, self._choices, self._after = answer, choices, after

    async def send(self, response: EventResponse, events: Events) -> None:
        """Send the events after the cursor up to the end; raises RequestError if the job vanishes meanwhile."""
        reached, finals = self._after, dict[int, Final]()
        places: list[Place] = [(0, 0)] * len(self._choices)
        while not self._after.is_end and len(finals) < len(self._choices):
            index, message = await next_event(events, response)
            is_first, count = places[index] == (0, 0), places[index][0]
            if isinstance(message, Chunk):
                places[index] = count + len(message.token_ids), 0
            else:
                places[index], finals[index] = (count, 1), message
            body = self._body(index, message, is_first=is_first)
            if places[index] > self._after.places[index]:
                reached = reached.later(index, places[index])
                if body is not None:
                    await send(response, event(body, reached.id))
        if not self._after.is_end:
            await send(response, event(self._ending([finals[index] for index in sorted(finals)]), LAST_ID))
        await send(response, DONE)

    def _body(self, index: int, message: Chunk | Final, *, is_first: bool) -> dict[str, object] | None:
        """Spell one event of a choice; None for a choice without an answer, of which the last event speaks."""
        choice = self._choices[index]
        if isinstance(message, Chunk):
            body = choice.part(message)
        elif message.reason in (FinishReason.ERROR, FinishReason.DEADLINE):
            return None
        else:
            body = choice.ending(message) | usage_fields(message.usage, choice.acceptance)
        if is_first and self._answer.style.is_chat:
            # The role has no event of its own here: it would be one without a place.
            spelt = body["choices"][0]
            spelt["delta"] = {"role": "assistant", "content": ""} | spelt["delta"]
            body |= self._answer.shown_prompt()
        return body

    def _ending(self, finals: Sequence[Final]) -> dict[str, object]:
        """Spell the last event: the sums over all choices, or why there is no answer."""
        if error := failure(finals):
            return error_body(error)
        return self._answer.streamed([]) | sums(self._choices, finals)


def failure(finals: Sequence[Final]) -> RequestError | None:
    """Return why a job has no answer: what the first of its choices that failed says."""
    for final in finals:
        # A job is cancelled by its client, who gets what there is of the answer.
        if final.reason is FinishReason.CANCELLED:
            continue
        try:
            check_final(final)
        except RequestError as error:
            return error
    return None


def _is_past(place: Place, there: Place) -> bool:
    return place > there
