"""/v1/jobs: answers that outlive the connection they were asked over, and the gateway that took them on."""

import asyncio
import contextlib
import hashlib
import re
import time
import uuid

import msgspec
import structlog
from aiohttp import web
from msgspec import Struct
from redis.exceptions import RedisError

from client.wire import JOBS_PATH, Chunk, Final, Usage
from core.errors import QueueError, RequestError
from models.tokenizer import Tokenizer
from service.answers.answers import Answer, error_body, token_counts
from service.answers.choices import ChoiceWriter, whole_body
from service.answers.job_events import JobEvents, failure, read_cursor
from service.answers.job_records import JobRecord, JobRecords, KnownJob, choice_ids
from service.answers.logprobs import LogprobsWriter
from service.answers.tool_calls import call_reader
from service.door.doorkeeper import tenant_of
from service.door.idempotency import Held, IdempotencyKeys, idempotency_key
from service.door.tenant_limits import TenantLimits
from service.door.tenants import Tenant
from service.http.bodies import Bodies
from service.http.http_border import USER_HEADER, report
from service.jobs import JobMaker
from service.openai import ChatRequest, CompletionRequest
from service.queue import JobQueue
from service.sse import event, open_events, send
from service.storage.reader import StreamReader

log = structlog.get_logger()

KEY_HEADER = "Idempotency-Key"
# Between two looks at a key whose job another request is making.
POLL_S = 0.05
KEY = re.compile(r"[\x21-\x7e]{1,255}")
JOB_ID = re.compile(r"[0-9a-f]{32}")


class Asker(Struct, frozen=True):
    """Who asks: a tenant, and which of its users, where it says."""

    tenant: Tenant
    user_id: str | None


class JobRoutes:
    """POST /v1/jobs, GET and DELETE /v1/jobs/ID, GET /v1/jobs/ID/events and POST /v1/jobs/ID/cancel."""

    def __init__(
        self,
        queue: JobQueue,
        jobs: JobMaker,
        reader: StreamReader,
        tokenizer: Tokenizer,
        bodies: Bodies,
        fingerprint: str,
    ) -> None:
        self._queue, self._jobs, self._reader, self._tokenizer = queue, jobs, reader, tokenizer
        self._bodies, self._fingerprint = bodies, fingerprint
        self._records = JobRecords(queue)
        self._tenant_limits = TenantLimits(queue)
        self._keys = IdempotencyKeys(queue.scripts, self._records.ttl_s)

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_post(JOBS_PATH, self.create)
        app.router.add_get(JOBS_PATH + "/{id}", self.show)
        app.router.add_delete(JOBS_PATH + "/{id}", self.delete)
        app.router.add_get(JOBS_PATH + "/{id}/events", self.events)
        app.router.add_post(JOBS_PATH + "/{id}/cancel", self.cancel)

    # --- Endpoints ---------------------------------------------------------------------------------------------

    async def create(self, request: web.Request) -> web.Response:
        """POST /v1/jobs: queue a job; under an idempotency key that has one, that one is the answer."""
        asked = await self._bodies.read_either(request)
        if asked.stream or asked.stream_options is not None:
            raise RequestError("a job is not streamed when it is made; read its events instead", param="stream")
        if isinstance(asked, CompletionRequest) and asked.echo:
            raise RequestError(
                "a job's answer has no echo of its prompt; leave it out", param="echo", code="unsupported_parameter"
            )
        key, asker = request.headers.get(KEY_HEADER), Asker(tenant_of(request), request.headers.get(USER_HEADER))
        if key is None:
            job_id = await self._make(asked, uuid.uuid4().hex, asker)
        elif KEY.fullmatch(key):
            job_id = await self._make_once(asked, key, asker)
        else:
            raise RequestError(f"{KEY_HEADER} must be 1 to 255 visible ASCII characters", code="bad_idempotency_key")
        body = await self._view(await self._records.find(job_id, asker.tenant))
        return web.json_response(body, status=202, headers={"Location": f"{JOBS_PATH}/{job_id}"})

    async def show(self, request: web.Request) -> web.Response:
        """GET /v1/jobs/ID: the state, the usage so far, and the answer once there is one."""
        return web.json_response(await self._view(await self._find(request)))

    async def cancel(self, request: web.Request) -> web.Response:
        """POST /v1/jobs/ID/cancel: ask for the end of what has not ended; what has, stays as it is."""
        job = await self._find(request)
        await self._queue.cancel(*job.ids)
        return web.json_response(await self._view(await self._find(request)))

    async def delete(self, request: web.Request) -> web.Response:
        """DELETE /v1/jobs/ID: cancel what runs, and forget the job, its answer and its idempotency key."""
        job_id = _job_id(request)
        record = await self._records.record(job_id, tenant_of(request))
        await self._records.forget(job_id, record)
        await self._tenant_limits.release(tenant_of(request), choice_ids(job_id, record.num_choices))
        if record.idempotency:
            await self._keys.drop(record.idempotency, Held(job_id, record.digest, is_settled=True))
        return web.json_response({"id": job_id, "object": "job", "deleted": True})

    async def events(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/jobs/ID/events: its events after the one that is named, up to the end; leaving does not end it."""
        job = await self._find(request)
        # A client that reconnects by itself keeps its address, and says in the header how far it came since.
        last_id = request.headers.get("Last-Event-ID") or request.query.get("starting_after", "")
        after = read_cursor(last_id, job.choices)
        answer = _answer(job)
        sender = JobEvents(answer, self._writers(job, answer), after)
        async with self._reader.follow(job.jobs, _unseen, lambda: self._records.write(job.id, job.record)) as events:
            response = await open_events(request)
            try:
                await sender.send(response, events)
            except ConnectionError:
                raise
            except Exception as error:  # noqa: BLE001 - a border: the status line is gone, the error is the last event
                await send(response, event(error_body(report(error, request))))
        return response

    # --- Making ------------------------------------------------------------------------------------------------

    async def _make_once(self, asked: CompletionRequest | ChatRequest, text: str, asker: Asker) -> str:
        """Return the job of an idempotency key, made now if there is none."""
        key = idempotency_key(asker.tenant, text)
        digest = hashlib.sha256(msgspec.json.encode(asked, order="sorted")).hexdigest()
        while True:
            mine = Held(uuid.uuid4().hex, digest)
            held = await self._keys.hold(key, mine)
            if held == mine:
                if job_id := await self._make_held(asked, key, mine, asker):
                    return job_id
            elif held.is_settled and not await self._records.is_kept(held.job_id, asker.tenant):
                await self._keys.drop(key, held)
            elif held.digest != digest:
                raise RequestError(
                    f"this {KEY_HEADER} was used for another request, whose job is {held.job_id}; use a new key",
                    status=422,
                    code="idempotency_key_reused",
                )
            elif held.is_settled:
                return held.job_id
            else:
                await asyncio.sleep(POLL_S)

    async def _make_held(
        self, asked: CompletionRequest | ChatRequest, key: str, held: Held, asker: Asker
    ) -> str | None:
        """Make the job that a key is held for; None if that took so long that the key is another's."""
        try:
            await self._make(asked, held.job_id, asker, key, held.digest)
        except BaseException:
            with contextlib.suppress(RedisError, OSError, QueueError):
                await asyncio.shield(self._keys.drop(key, held))
            raise
        if await self._keys.settle(key, held):
            return held.job_id
        await self._records.forget(held.job_id, await self._records.record(held.job_id, asker.tenant))
        return None

    async def _make(
        self, asked: CompletionRequest | ChatRequest, job_id: str, asker: Asker, key: str = "", digest: str = ""
    ) -> str:
        jobs = await self._jobs.make(asked, job_id, asker.tenant, asker.user_id)
        record = JobRecord(
            isinstance(asked, ChatRequest),
            int(time.time()),
            len(jobs),
            bool(asked.return_token_ids),
            key,
            digest,
            self._fingerprint,
            asked.spec_decode_metrics == "detailed",
            tenant=asker.tenant.name,
            calls=asked.callable_names,
        )
        try:
            await self._records.write(job_id, record)
            await self._jobs.submit(jobs)
        except BaseException:
            # Its id was told to nobody: what was queued of it would be answered for nobody.
            with contextlib.suppress(RedisError, OSError, QueueError):
                await asyncio.shield(self._records.forget(job_id, record))
            raise
        log.info("job_made", job_id=job_id, num_choices=len(jobs), tenant=asker.tenant.name)
        return job_id

    async def _find(self, request: web.Request) -> KnownJob:
        return await self._records.find(_job_id(request), tenant_of(request))

    # --- Showing -----------------------------------------------------------------------------------------------

    async def _view(self, job: KnownJob) -> dict[str, object]:
        link, answer = f"{JOBS_PATH}/{job.id}", _answer(job)
        usage = Usage(len(job.first.prompt_ids), sum(choice.num_tokens for choice in job.choices))
        body: dict[str, object] = {
            "id": job.id,
            "object": "job",
            "state": str(job.state),
            "created": job.record.created,
            "model": job.first.model,
            "usage": token_counts(usage),
            "answer": None,
            "error": None,
            "links": {"self": link, "events": f"{link}/events", "cancel": f"{link}/cancel"},
        }
        if not all(choice.has_ended for choice in job.choices):
            return body
        streams = [await self._records.events(one) for one in job.ids]
        finals = [stream[-1] for stream in streams if stream and isinstance(stream[-1], Final)]
        if len(finals) < len(streams):
            raise QueueError(f"the answer of job {job.id} is not whole")
        if error := failure(finals):
            return body | error_body(error)
        chunks = [[one for one in stream if isinstance(one, Chunk)] for stream in streams]
        return body | {"answer": whole_body(answer, self._writers(job, answer), chunks, finals)}

    def _writers(self, job: KnownJob, answer: Answer) -> list[ChoiceWriter]:
        has_logprobs, is_chat = job.first.sampling.logprobs is not None, answer.style.is_chat
        return [
            ChoiceWriter(
                answer,
                index,
                LogprobsWriter(self._tokenizer, is_chat=is_chat) if has_logprobs else None,
                call_reader(job_id, job.record.calls),
            )
            for index, job_id in enumerate(job.ids)
        ]


def _answer(job: KnownJob) -> Answer:
    """Return the fixed part of a job's answer, the same whenever and wherever it is told."""
    first, record = job.first, job.record
    return Answer(
        record.style,
        job.id,
        first.model,
        len(first.prompt_ids),
        record.created,
        first.prompt_ids if record.wants_token_ids else None,
        is_detailed=record.is_detailed,
        fingerprint=record.fingerprint,
    )


def _job_id(request: web.Request) -> str:
    job_id = request.match_info["id"]
    if not JOB_ID.fullmatch(job_id):
        raise RequestError(f"a job's id is 32 hexadecimal digits, got {job_id[:64]!r}", param="id", code="bad_job_id")
    return job_id


def _unseen(_: int, __: Chunk | Final) -> None:
    """Count nothing: the same events may be sent again, and to several."""
