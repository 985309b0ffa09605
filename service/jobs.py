"""From a validated request to a job in the queue, whichever door it came in by. Knows no HTTP."""

import asyncio
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
from redis.exceptions import RedisError

from client.wire import WORKERS_KEY, IntakeRequest, Job, worker_key
from core.config import Settings, model_name, nearest
from core.errors import RequestError
from core.types import Sampling
from models.chat import ChatTemplate
from models.tokenizer import Tokenizer
from service.openai import MAX_TOKENS, ChatRequest, CompletionRequest, SharedFields, convert
from service.queue import JobQueue

# What an answer may hold at most where the request does not say: OpenAI's default for completions.
DEFAULT_COMPLETION_TOKENS = 16
WORKERS_TTL_S = 1.0


class JobMaker:
    """Tokenises prompts, holds them to the model's limits, draws nonces and submits jobs."""

    def __init__(self, settings: Settings, tokenizer: Tokenizer, queue: JobQueue, threads: ThreadPoolExecutor) -> None:
        self._settings, self._tokenizer, self._queue = settings, tokenizer, queue
        self._chat = ChatTemplate(tokenizer.chat_template, tokenizer.special_tokens)
        self._threads = threads
        self._context_lengths: list[int] = []
        self._asked_at = -WORKERS_TTL_S

    async def context_lengths(self) -> list[int]:
        """Return the context length of each live worker of this model; asked of Redis at most once a second."""
        if time.monotonic() - self._asked_at >= WORKERS_TTL_S:
            self._context_lengths = await self._ask_workers()
            self._asked_at = time.monotonic()
        return self._context_lengths

    async def submit(self, request: CompletionRequest | ChatRequest, job_id: str) -> Job:
        """Queue a job for a request; raises RequestError if it cannot be served."""
        self._check_model(request.model)
        try:
            lengths = await self.context_lengths()
            if not lengths:
                raise RequestError("no worker is serving this model; try again soon", status=503, code="no_worker")
            if await self._queue.depth() >= self._settings.queue.max_queued_requests:
                raise RequestError("too many requests are queued; try again soon", status=503, code="queue_full")
            prompt_ids = await self._prompt_ids(request)
            job = self._job(request, prompt_ids, max(lengths), job_id)
            created = await self._queue.submit(job)
        except (RedisError, OSError) as error:
            raise RequestError("the queue is out of reach; try again soon", status=503, code="queue_down") from error
        if not created:
            raise RequestError(f"a job {job.id} exists already", status=409, param="id", code="duplicate_id")
        return job

    def _job(self, request: SharedFields, prompt_ids: list[int], context_length: int, job_id: str) -> Job:
        sampling = self._sampling(request, len(prompt_ids), context_length)
        vocabulary = self._tokenizer.vocab_size
        for field, ids in (("prompt", prompt_ids), ("stop_token_ids", sampling.stop_token_ids)):
            if any(not 0 <= token < vocabulary for token in ids):
                raise RequestError(f"token ids must lie in 0..{vocabulary - 1}", param=field)
        return Job(
            job_id,
            self._queue.model,
            tuple(prompt_ids),
            sampling,
            nonce=secrets.token_bytes(16),
            created_ms=time.time_ns() // 1_000_000,
        )

    def _sampling(self, request: SharedFields, prompt_len: int, context_length: int) -> Sampling:
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
        return request.sampling(wanted)

    async def _prompt_ids(self, request: CompletionRequest | ChatRequest) -> list[int]:
        """Tokenise off the event loop: a long prompt must not hold up other streams."""
        if isinstance(request, CompletionRequest) and not isinstance(request.prompt, str):
            return request.prompt
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._tokenise, request)

    def _tokenise(self, request: CompletionRequest | ChatRequest) -> list[int]:
        if isinstance(request, ChatRequest):
            messages = [{"role": message.role, "content": message.text} for message in request.messages]
            # The template writes the special tokens itself.
            return self._tokenizer.encode(self._chat.render(messages), add_special_tokens=False)
        return self._tokenizer.encode(str(request.prompt))

    def _check_model(self, wanted: str | None) -> None:
        served = model_name(self._settings)
        if wanted is not None and wanted != served:
            raise RequestError(
                f"unknown model {wanted!r}; {nearest(wanted, [served])}",
                status=404,
                param="model",
                code="model_not_found",
            )

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
    return convert(fields, ChatRequest) if "messages" in fields else convert(fields, CompletionRequest)
