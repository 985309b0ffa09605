"""From a validated request to jobs in the queue, whichever door it came in by. Knows no HTTP."""

import math
import secrets
import time
from collections.abc import Callable
from typing import Any

import msgspec
from redis.exceptions import RedisError

from client.wire import WORKERS_KEY, IntakeRequest, Job, child_id, worker_key
from core.config import Settings, model_name, nearest
from core.errors import RequestError
from core.types import PLAIN, Sampling, SamplingDefaults, Speculation
from service.door.admission import Admission, user_key
from service.door.arms import Arms
from service.door.refreshed import Refreshed
from service.door.speculation import KnownNames, known_now
from service.door.tenant_limits import TenantLimits
from service.door.tenants import Tenant
from service.http.parse import convert
from service.openai import MAX_TOKENS, ChatRequest, CompletionRequest
from service.prompts import Prompts
from service.queue import JobQueue

# What an answer may hold at most where the request does not say: OpenAI's default for completions.
DEFAULT_COMPLETION_TOKENS = 16
# How old what is known of the workers may be: where it has to be true, and where it only decides how a job is made.
WORKERS_FRESH_S, WORKERS_GOOD_S = 1.0, 10.0


class JobMaker:
    """Holds requests to the model's limits, draws nonces and submits jobs, one for each choice.

    shed is told why there was no room for a request (door/admission.py); traceparent returns the span that a job at
    hand belongs to, "" for none. defaults stand for what requests leave out of sampling: a job says all of it, so that
    it means the same wherever it is run, resumed, recorded or played again.
    """

    def __init__(
        self,
        settings: Settings,
        prompts: Prompts,
        queue: JobQueue,
        known: KnownNames,
        shed: Callable[[str], None],
        traceparent: Callable[[], str] = str,
        defaults: SamplingDefaults = PLAIN,
    ) -> None:
        self.defaults = defaults
        self._traceparent = traceparent
        self._settings, self._prompts, self._queue, self._known = settings, prompts, queue, known
        self._arms = Arms(settings.arms)
        self._admission = Admission(queue, settings.queue, shed)
        self._tenant_limits = TenantLimits(queue)
        self._context_lengths = Refreshed(self._ask_workers)

    async def context_lengths(self) -> list[int]:
        """Return the context length of each live worker of this model; asked of Redis at most once a second."""
        return await self._context_lengths.get(WORKERS_FRESH_S)

    async def context_length(self) -> int:
        """Return the longest context that a live worker serves, or did just now; raises RequestError if none does."""
        good_s = WORKERS_GOOD_S if self._context_lengths.last else 0.0
        try:
            lengths = await self._context_lengths.get(WORKERS_FRESH_S, good_s)
        except (RedisError, OSError) as error:
            raise _queue_down() from error
        if not lengths:
            raise RequestError("no worker is serving this model; try again soon", status=503, code="no_worker")
        return max(lengths)

    def check_model(self, wanted: str | None) -> None:
        """Raise RequestError for a model that is not served here; None is whichever is."""
        served = model_name(self._settings)
        if wanted is not None and wanted != served:
            raise RequestError(
                f"unknown model {wanted!r}; {nearest(wanted, [served])}",
                status=404,
                param="model",
                code="model_not_found",
            )

    async def make(
        self,
        request: CompletionRequest | ChatRequest,
        request_id: str,
        tenant: Tenant,
        user_id: str | None = None,
        longest_wait_s: float = math.inf,
    ) -> list[Job]:
        """Return the jobs of a tenant's request, one for each choice; raises RequestError if it cannot be served.

        user_id says which of the tenant's users asks, where `user` of the request itself does not count. longest_wait_s
        is how long it may wait in the queue. The jobs count as the tenant's from here on, so submit them.
        """
        self.check_model(request.model)
        num_choices, speculation, arm = request.num_choices, request.asked_speculation, ""
        priority = tenant.priority(None if request.priority is None else request.job_priority)
        deadline_ms = await self._deadline_ms(request.deadline_ms)
        await self._check_names(speculation)
        # A request that says itself what it wants is outside every experiment.
        named_user = user_id or request.user
        user_name = tenant.own(named_user) if named_user else None
        if request.speculation is None and (picked := self._arms.pick(user_name or request_id)):
            speculation, arm = picked.speculation, picked.name
        context_length = await self.context_length()
        user = user_key(user_name)
        await self._check_room(num_choices, user)
        await self._check_wait(priority, longest_wait_s, request.deadline_ms)
        prompt_ids = await self._prompts.ids(request)
        tenant.check_prompt(len(prompt_ids))
        await self._check_tokens(num_choices * len(prompt_ids))
        sampling = self._sampling(request, len(prompt_ids), context_length)
        if sampling.grammar is not None:
            await self._prompts.grammars.check(sampling.grammar)
        self._prompts.check_ids("prompt", prompt_ids)
        self._prompts.check_ids("stop_token_ids", sampling.stop_token_ids)
        self._prompts.check_ids("logit_bias", [token_id for token_id, _ in sampling.logit_bias])
        first = Job(
            request_id,
            self._queue.model,
            tuple(prompt_ids),
            sampling,
            nonce=secrets.token_bytes(16),
            created_ms=time.time_ns() // 1_000_000,
            cache_salt=tenant.own(request.cache_salt or ""),
            speculation=speculation,
            priority=priority,
            deadline_ms=deadline_ms,
            arm=arm,
            user=user,
            trace=self._traceparent(),
        )
        jobs = [
            msgspec.structs.replace(first, id=child_id(request_id, index), n_index=index)
            for index in range(num_choices)
        ]
        # Others were let in while this one was made; from here on it counts.
        await self._check_wait(priority, longest_wait_s, request.deadline_ms)
        self._admission.admitted(jobs)
        await self._take(tenant, jobs)
        return jobs

    async def _deadline_ms(self, within_ms: int | None) -> int | None:
        """Return when an answer that is wanted within so long is late, by Redis's clock."""
        if within_ms is None:
            return None
        try:
            return await self._queue.now_ms() + within_ms
        except (RedisError, OSError) as error:
            raise _queue_down() from error

    async def _check_names(self, speculation: Speculation) -> None:
        try:
            known = await known_now(self._known, speculation, self._queue)
        except (RedisError, OSError) as error:
            raise _queue_down() from error
        known.check(speculation)

    async def submit(self, jobs: list[Job], held_in: str | None = None, wakes: str | None = None) -> None:
        """Queue the jobs of one request, put into the set held_in; raises RequestError if that cannot be done.

        wakes is the stream of a reader that follows them. A submission that broke off may be repeated: jobs that exist
        are left as they are.
        """
        try:
            created = [await self._queue.submit(job, held_in, wakes if job is jobs[0] else None) for job in jobs]
        except (RedisError, OSError) as error:
            raise _queue_down() from error
        if not any(created):
            raise RequestError(f"a job {jobs[0].id} exists already", status=409, param="id", code="duplicate_id")

    async def _check_room(self, num_jobs: int, user: str) -> None:
        """Raise RequestError if the queue is too full: asked before any work goes into a request."""
        try:
            await self._admission.check(num_jobs, user)
        except (RedisError, OSError) as error:
            raise _queue_down() from error

    async def _check_wait(self, priority: int, longest_s: float, deadline_ms: int | None) -> None:
        try:
            await self._admission.check_wait(priority, longest_s, deadline_ms)
        except (RedisError, OSError) as error:
            raise _queue_down() from error

    async def _check_tokens(self, num_tokens: int) -> None:
        try:
            await self._admission.check_tokens(num_tokens)
        except (RedisError, OSError) as error:
            raise _queue_down() from error

    async def _take(self, tenant: Tenant, jobs: list[Job]) -> None:
        """Raise RequestError if the tenant has too many jobs with these."""
        try:
            await self._tenant_limits.take(tenant, [job.id for job in jobs])
        except (RedisError, OSError) as error:
            raise _queue_down() from error

    def _sampling(self, request: CompletionRequest | ChatRequest, prompt_len: int, context_length: int) -> Sampling:
        room = context_length - prompt_len
        if prompt_len == 0:
            raise RequestError("the prompt is empty; at least one token is needed", param="prompt")
        if room < 1:
            raise RequestError(
                f"the prompt has {prompt_len} tokens, which leaves no room in a context of {context_length}",
                param="messages" if isinstance(request, ChatRequest) else "prompt",
                code="context_length_exceeded",
            )
        wanted = request.max_tokens
        if isinstance(request, ChatRequest):
            # A chat without a limit runs to its end or to the context's.
            wanted = request.max_completion_tokens or wanted or min(room, MAX_TOKENS)
        wanted = wanted or min(DEFAULT_COMPLETION_TOKENS, room)
        if wanted > room:
            raise RequestError(
                f"{prompt_len} prompt tokens and max_tokens {wanted} make {prompt_len + wanted}; "
                f"this model takes {context_length} in all",
                param="max_tokens",
                code="context_length_exceeded",
            )
        return request.sampling(wanted, self.defaults)

    async def _ask_workers(self) -> list[int]:
        client = self._queue.client
        found: Any = await client.smembers(WORKERS_KEY)
        names: list[bytes] = sorted(found)
        if not names:
            return []
        async with client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hmget(worker_key(name.decode()), "model", "max_model_len")
            rows = await pipe.execute()
        gone = [name for name, row in zip(names, rows, strict=True) if row[0] is None]
        if gone:
            await client.srem(WORKERS_KEY, *gone)
        return [int(row[1]) for row in rows if row[0] is not None and row[0].decode() == self._queue.model]


def from_intake(request: IntakeRequest) -> CompletionRequest | ChatRequest:
    """Return the request that an intake entry stands for; raises RequestError for what HTTP would refuse too."""
    fields = {name: value for name, value in msgspec.to_builtins(request).items() if value is not None and name != "id"}
    if ("prompt" in fields) == ("messages" in fields):
        raise RequestError("exactly one of prompt and messages must be given", param="prompt")
    if "prompt" in fields:
        return convert(fields, CompletionRequest)
    if "logprobs" in fields:
        # Over HTTP, chats spell the number of alternatives in two fields.
        fields |= {"logprobs": True, "top_logprobs": fields["logprobs"]}
    return convert(fields, ChatRequest)


def _queue_down() -> RequestError:
    return RequestError("the queue is out of reach; try again soon", status=503, code="queue_down")
