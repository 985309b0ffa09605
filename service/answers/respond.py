"""From the events of an answer's jobs to the answer: whole, or streamed with the choices as they come."""

import asyncio
from collections.abc import Sequence
from typing import Any

from client.wire import Chunk, Final
from service.answers.answers import Answer
from service.answers.choices import ChoiceWriter, sums, whole_body
from service.http.http_border import check_final
from service.sse import DONE, KEEP_ALIVE, EventResponse, event, send
from service.storage.followers import Event, Events

KEEP_ALIVE_S = 15.0


async def whole_answer(answer: Answer, choices: Sequence[ChoiceWriter], events: Events) -> dict[str, Any]:
    """Wait for every choice's end and return the answer; raises RequestError if one of them failed."""
    return whole_body(answer, choices, *await gather(events, len(choices)))


async def gather(events: Events, num_choices: int) -> tuple[list[list[Chunk]], list[Final]]:
    """Wait for the end of each choice and return its chunks and how it ended; raises RequestError if one failed."""
    chunks: list[list[Chunk]] = [[] for _ in range(num_choices)]
    finals: dict[int, Final] = {}
    while len(finals) < num_choices:
        index, message = await events.get()
        if isinstance(message, Chunk):
            chunks[index].append(message)
        else:
            check_final(message)
            finals[index] = message
    return chunks, [finals[index] for index in range(num_choices)]


async def stream_answer(
    response: EventResponse, answer: Answer, choices: Sequence[ChoiceWriter], events: Events
) -> None:
    """Send the choices' chunks as they come, then their sums; raises RequestError if one of them failed."""
    finals: list[Final] = []
    for choice in choices:
        if opening := choice.opening():
            await send(response, event(opening))
    while len(finals) < len(choices):
        index, message = await next_event(events, response)
        choice = choices[index]
        if isinstance(message, Chunk):
            body = choice.part(message)
        else:
            check_final(message)
            finals.append(message)
            body = choice.ending(message)
        await send(response, event(body | answer.running_usage(choice.num_tokens)))
    if answer.wants_usage:
        await send(response, event(answer.streamed([]) | sums(choices, finals)))
    await send(response, DONE)


async def next_event(events: Events, response: EventResponse) -> Event:
    """Wait for the jobs' next event, keeping the client's connection alive meanwhile."""
    while True:
        try:
            async with asyncio.timeout(KEEP_ALIVE_S):
                return await events.get()
        except TimeoutError:
            await send(response, KEEP_ALIVE)
