"""/v1/responses: OpenAI's answers that can be read again, cancelled, and followed from where a client lost them.

A response is a job of /v1/jobs with one choice, and is kept as long. In the background it goes on when its client
leaves; else it is cancelled then.
"""

import asyncio
import math
import re
import time
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec
import structlog
from aiohttp import web

from client.wire import Chunk, Final, Job
from core.config import Settings
from core.errors import RequestError
from service.answers.answering import Answering
from service.answers.job_records import JobRecord, JobRecords, JobState, KnownJob
from service.answers.respond import gather
from service.door.doorkeeper import tenant_of
from service.http.bodies import Bodies
from service.http.http_border import USER_HEADER, report
from service.jobs import JobMaker
from service.queue import JobQueue
from service.responses.response_body import ID_PREFIX, ResponseBody
from service.responses.response_events import ResponseEvents
from service.responses.response_request import NOT_BUILT_RESPONSES, ResponseRequest
from service.sse import open_events
from service.storage.followers import Events
from service.storage.reader import StreamReader

log = structlog.get_logger()

RESPONSES_PATH = "/v1/responses"
RESPONSE_ID = re.compile(ID_PREFIX + r"[0-9a-f]{32}", re.ASCII)
EVENT_NUMBER = re.compile(r"\d{1,9}", re.ASCII)
STANDING = {JobState.QUEUED: "queued", JobState.RUNNING: "in_progress"}


class ResponseRoutes:
    """POST /v1/responses, GET and DELETE /v1/responses/ID, POST /v1/responses/ID/cancel."""

    def __init__(
        self,
        settings: Settings,
        queue: JobQueue,
        jobs: JobMaker,
        reader: StreamReader,
        answering: Answering,
        bodies: Bodies,
    ) -> None:
        self._timeout_s, self._longest_wait_s = settings.server.request_timeout_s, settings.queue.max_wait_s
        self._queue, self._jobs = queue, jobs
        self._reader, self._answering, self._bodies = reader, answering, bodies
        self._records = JobRecords(queue)

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_post(RESPONSES_PATH, self.create)
        app.router.add_get(RESPONSES_PATH + "/{id}", self.show)
        app.router.add_delete(RESPONSES_PATH + "/{id}", self.delete)
        app.router.add_post(RESPONSES_PATH + "/{id}/cancel", self.cancel)

    async def create(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/responses: answer an input, at once or in the background."""
        started_s = time.perf_counter()
        asked = await self._bodies.read(request, ResponseRequest, NOT_BUILT_RESPONSES)
        if asked.background and not asked.is_stored:
            raise RequestError("a response in the background must be stored; leave store out", param="store")
        tenant, user_id = tenant_of(request), request.headers.get(USER_HEADER)
        # Who does not wait for an answer does not mind that it waits.
        longest_wait_s = math.inf if asked.background else self._longest_wait_s
        jobs = await self._jobs.make(asked.chat, uuid.uuid4().hex, tenant, user_id, longest_wait_s)
        body = ResponseBody(jobs[0].id, jobs[0].model, int(time.time()), asked, jobs[0].sampling)
        # What was asked is in the job; the record is for what a response says of it.
        shown = msgspec.structs.replace(asked, input="")
        record = JobRecord(True, body.created, 1, response=shown, tenant=tenant.name)
        if asked.is_stored:
            await self._records.write(body.job_id, record)
        if asked.background:
            return await self._begin(request, body, jobs, record)
        async with self._answering.run(jobs, started_s) as events:
            if asked.stream:
                return await self._stream(request, ResponseEvents(body), events, jobs)
            async with asyncio.timeout(self._timeout_s):
                (chunks,), (final,) = await gather(events, 1)
        return web.json_response(body.ended(chunks, final))

    async def show(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/responses/ID: how it stands; with stream=true its events after the number `starting_after`."""
        job, body = await self._find(request)
        if request.query.get("stream", "false") != "true":
            return web.json_response(await self._view(job, body))
        after = request.query.get("starting_after", "")
        if after and not EVENT_NUMBER.fullmatch(after):
            raise RequestError(
                f"starting_after must be the sequence_number of an event, got {after[:64]!r}", param="starting_after"
            )
        return await self._follow(request, body, job.jobs, job.record, int(after) if after else -1)

    async def cancel(self, request: web.Request) -> web.Response:
        """POST /v1/responses/ID/cancel: ask for the end of a response in the background."""
        job, body = await self._find(request)
        if not body.asked.background:
            raise RequestError("only a response in the background is cancelled; leave this one's stream", param="id")
        await self._queue.cancel(job.id)
        return web.json_response(await self._view(*await self._find(request)))

    async def delete(self, request: web.Request) -> web.Response:
        """DELETE /v1/responses/ID: cancel what runs, and forget the response."""
        job, _ = await self._find(request)
        await self._records.forget(job.id, job.record)
        return web.json_response({"id": ID_PREFIX + job.id, "object": "response", "deleted": True})

    async def _begin(
        self, request: web.Request, body: ResponseBody, jobs: list[Job], record: JobRecord
    ) -> web.StreamResponse:
        """Queue a response that goes on without its client."""
        await self._jobs.submit(jobs)
        log.info("job_made", job_id=body.job_id, num_choices=1)
        if body.asked.stream:
            return await self._follow(request, body, jobs, record)
        return web.json_response(body.standing("queued"))

    async def _follow(
        self, request: web.Request, body: ResponseBody, jobs: Sequence[Job], record: JobRecord, after: int = -1
    ) -> web.StreamResponse:
        async with self._reader.follow(jobs, _unseen, lambda: self._records.write(body.job_id, record)) as events:
            return await self._stream(request, ResponseEvents(body, after), events)

    async def _stream(
        self, request: web.Request, spelling: ResponseEvents, events: Events, jobs: list[Job] | None = None
    ) -> web.StreamResponse:
        """Send a response's events; one that its client waits for ends, with its jobs, at the server's time limit."""
        response = await open_events(request)
        try:
            async with asyncio.timeout(self._timeout_s if jobs else None):
                await spelling.send(response, events)
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001 - a border: the status line is gone, the error is the last event
            await self._answering.cancel(jobs or [])
            await spelling.fail(response, report(error, request))
        return response

    async def _find(self, request: web.Request) -> tuple[KnownJob, ResponseBody]:
        """Return the response that a path names; raises RequestError with 404 or 410 if there is none."""
        response_id = request.match_info["id"]
        missing = RequestError(f"no response {response_id[:64]!r}", status=404, param="id", code="response_not_found")
        if not RESPONSE_ID.fullmatch(response_id):
            raise missing
        job = await self._records.find(response_id.removeprefix(ID_PREFIX), tenant_of(request))
        if job.record.response is None:
            raise missing
        return job, ResponseBody(job.id, job.first.model, job.record.created, job.record.response, job.first.sampling)

    async def _view(self, job: KnownJob, body: ResponseBody) -> dict[str, Any]:
        if job.state in STANDING:
            return body.standing(STANDING[job.state])
        *chunks, final = await self._records.events(job.id)
        assert isinstance(final, Final)
        return body.ended([chunk for chunk in chunks if isinstance(chunk, Chunk)], final)


def _unseen(_: int, __: Chunk | Final) -> None:
    """Count nothing: the same events may be sent again, and to several."""
