"""What gateways keep of a job made over HTTP, so that each of them can answer for it: its record and its choices."""

from enum import StrEnum
from typing import Any

import msgspec
from msgspec import Struct

from client.wire import OUT_FIELD, Chunk, Final, Job, child_id, decode_event, decode_job, job_key, out_stream
from core.errors import RequestError
from service.answers.answers import CHAT, COMPLETION, Style
from service.door.tenants import Tenant
from service.queue import LIVE_TTL_S, JobQueue
from service.responses.response_request import ResponseRequest


class JobState(StrEnum):
    """Where a job stands; the last four are ends."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


# A job of several choices has ended as the first of these that one of them has.
ENDS = (JobState.FAILED, JobState.EXPIRED, JobState.CANCELLED, JobState.DONE)


class JobRecord(Struct, frozen=True, tag="http/1", forbid_unknown_fields=True, omit_defaults=True):
    """What cannot be told from the jobs of the choices; idempotency is the Redis key that stands for the job, if any.

    digest is that of the request, by which another one under the same key is told apart. fingerprint is that of the
    service that took the job on. response is what was asked, without the input, where the job is one of OpenAI's
    responses. tenant is the name of whom the job belongs to, for everybody else there is no such job. calls are the
    functions of which one must be called, () where the model may choose, None where there are no tools.
    """

    is_chat: bool
    created: int
    num_choices: int
    wants_token_ids: bool = False
    idempotency: str = ""
    digest: str = ""
    fingerprint: str = ""
    is_detailed: bool = False
    response: ResponseRequest | None = None
    tenant: str = ""
    calls: tuple[str, ...] | None = None

    @property
    def style(self) -> Style:
        """How the job's answer is spelt."""
        return CHAT if self.is_chat else COMPLETION


class Choice(Struct, frozen=True):
    """Where one choice stands: its job's state and the number of its tokens."""

    state: JobState
    num_tokens: int

    @property
    def has_ended(self) -> bool:
        """Whether its Final is written."""
        return self.state in ENDS


class KnownJob(Struct, frozen=True):
    """A job as it stands in Redis; `first` is the job of its first choice."""

    id: str
    record: JobRecord
    first: Job
    choices: tuple[Choice, ...]

    @property
    def ids(self) -> list[str]:
        """The ids of the choices' jobs."""
        return choice_ids(self.id, self.record.num_choices)

    @property
    def jobs(self) -> list[Job]:
        """The jobs of the choices."""
        return [msgspec.structs.replace(self.first, id=one, n_index=index) for index, one in enumerate(self.ids)]

    @property
    def state(self) -> JobState:
        """The state of all choices together."""
        states = [choice.state for choice in self.choices]
        if all(choice.has_ended for choice in self.choices):
            return next(end for end in ENDS if end in states)
        return JobState.QUEUED if set(states) == {JobState.QUEUED} else JobState.RUNNING


class JobRecords:
    """Reads and writes records; methods raise RedisError or OSError while Redis is out of reach."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        # A record outlives its job, so that "expired" can be told from "never was".
        self.ttl_s = LIVE_TTL_S + queue.settings.result_ttl_s

    async def write(self, job_id: str, record: JobRecord) -> None:
        """Keep a record."""
        await self._queue.client.set(_record_key(job_id), msgspec.json.encode(record), ex=self.ttl_s)

    async def record(self, job_id: str, tenant: Tenant) -> JobRecord:
        """Return the record of a tenant's job; raises RequestError with 404 if there is none."""
        data = await self._queue.client.get(_record_key(job_id))
        record = None if data is None else msgspec.json.decode(data, type=JobRecord)
        if record is None or record.tenant != tenant.name:
            raise RequestError(f"no job {job_id!r}", status=404, param="id", code="job_not_found")
        return record

    async def find(self, job_id: str, tenant: Tenant) -> KnownJob:
        """Return a tenant's job; raises RequestError with 404 if there is none, 410 if its answer is kept no longer."""
        record = await self.record(job_id, tenant)
        async with self._queue.client.pipeline(transaction=False) as pipe:
            for one in choice_ids(job_id, record.num_choices):
                pipe.hmget(job_key(one), "state", "n")
            pipe.hget(job_key(job_id), "job")
            *rows, data = await pipe.execute()
        if data is None or any(state is None for state, _ in rows):
            raise RequestError(
                f"job {job_id!r} has expired; answers are kept for {self._queue.settings.result_ttl_s} s",
                status=410,
                param="id",
                code="job_expired",
            )
        choices = tuple(Choice(JobState(state.decode()), int(num_tokens)) for state, num_tokens in rows)
        return KnownJob(job_id, record, decode_job(data), choices)

    async def is_kept(self, job_id: str, tenant: Tenant) -> bool:
        """Tell whether a tenant's job and all of its choices are there."""
        try:
            await self.find(job_id, tenant)
        except RequestError:
            return False
        return True

    async def events(self, job_id: str) -> list[Chunk | Final]:
        """Return what one choice's stream holds."""
        rows: Any = await self._queue.client.xrange(out_stream(job_id))
        return [decode_event(fields[OUT_FIELD.encode()]) for _, fields in rows]

    async def forget(self, job_id: str, record: JobRecord) -> None:
        """Cancel a job and forget it; those who follow it read that it was cancelled."""
        await self._queue.forget(*choice_ids(job_id, record.num_choices))
        await self._queue.client.delete(_record_key(job_id))


def choice_ids(job_id: str, num_choices: int) -> list[str]:
    """Return the ids of the jobs of a request's choices."""
    return [child_id(job_id, index) for index in range(num_choices)]


def _record_key(job_id: str) -> str:
    return f"specd:{{{job_id}}}:http"
