"""The HTTP side: OpenAI's endpoints over the queue. Loads no torch and no model, only its tokenizer.

A request becomes a job; its answer is read back from the job's stream, whichever worker writes it. A client that goes
away cancels its job.
"""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import structlog
from aiohttp import web
from redis.asyncio import Redis
from redis.exceptions import RedisError

from client.wire import INTAKE_GROUP, INTAKE_STREAM, Chunk, Final
from core.config import Settings, model_name
from core.errors import ConfigError, QueueError, RequestError
from models.folders import target_folder
from models.tokenizer import Tokenizer
from service.answers import CHAT, COMPLETION, Answer, Style, error_body
from service.http_border import as_openai_errors, as_request_error, check_final, read_json
from service.intake import Intake
from service.jobs import JobMaker
from service.openai import ChatRequest, CompletionRequest, parse
from service.process import cancel_all, run_process
from service.queue import JobQueue, connect, make_group
from service.reader import BLOCK_MS, Events, StreamReader
from service.sse import DONE, KEEP_ALIVE, event, open_events, send

log = structlog.get_logger()

KEEP_ALIVE_S = 15.0
# Open answers may go on this long after the gateway was asked to stop.
SHUTDOWN_S = 5.0
TOKENIZER_THREADS = 2


class Gateway:
    """The handlers and what they share."""

    def __init__(self, settings: Settings, tokenizer: Tokenizer) -> None:
        url, timeout_s = settings.queue.redis_url, settings.queue.command_timeout_s
        assert url is not None
        self._settings = settings
        self._writing: Redis = connect(url, timeout_s)
        # Blocking reads have a connection of their own, and wait longer than they block.
        self._reading: Redis = connect(url, timeout_s + BLOCK_MS / 1000)
        self._queue = JobQueue(self._writing, settings.queue, model_name(settings))
        self._reader = StreamReader(self._reading, self._writing)
        self._threads = ThreadPoolExecutor(TOKENIZER_THREADS, thread_name_prefix="tokenizer")
        self._jobs = JobMaker(settings, tokenizer, self._queue, self._threads)

    def app(self) -> web.Application:
        """Return the aiohttp application."""
        app = web.Application(middlewares=[as_openai_errors], client_max_size=self._settings.server.max_body_bytes)
        app.router.add_post("/v1/completions", self.completions)
        app.router.add_post("/v1/chat/completions", self.chat_completions)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/health", self.health)
        app.router.add_get("/livez", self.livez)
        app.cleanup_ctx.append(self._background)
        return app

    async def _background(self, _: web.Application) -> AsyncIterator[None]:
        await self._queue.open()
        await make_group(self._writing, INTAKE_STREAM, INTAKE_GROUP)
        intake = Intake(self._reading, self._queue, self._jobs)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._reader.run()), group.create_task(intake.run())]
            yield
            await cancel_all(tasks)
        self._threads.shutdown(cancel_futures=True)
        await self._reading.aclose()
        await self._writing.aclose()

    # --- Endpoints ---------------------------------------------------------------------------------------------

    async def completions(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/completions."""
        return await self._answer(request, parse(await read_json(request), CompletionRequest), COMPLETION)

    async def chat_completions(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/chat/completions."""
        return await self._answer(request, parse(await read_json(request), ChatRequest), CHAT)

    async def models(self, _: web.Request) -> web.Response:
        """GET /v1/models."""
        model = {"id": model_name(self._settings), "object": "model", "created": 0, "owned_by": "specd"}
        return web.json_response({"object": "list", "data": [model]})

    async def livez(self, _: web.Request) -> web.Response:
        """GET /livez: the process runs."""
        return web.json_response({"status": "ok"})

    async def health(self, _: web.Request) -> web.Response:
        """GET /health: Redis answers and a worker serves."""
        try:
            workers = len(await self._jobs.context_lengths())
        except (RedisError, OSError):
            return web.json_response({"status": "error", "redis": False, "workers": 0}, status=503)
        body = {"status": "ok" if workers else "waiting", "redis": True, "workers": workers}
        return web.json_response(body, status=200 if workers else 503)

    # --- Answers -----------------------------------------------------------------------------------------------

    async def _answer(
        self, request: web.Request, asked: CompletionRequest | ChatRequest, style: Style
    ) -> web.StreamResponse:
        job_id = uuid.uuid4().hex
        try:
            job = await self._jobs.submit(asked, job_id)
            answer = Answer.new(style, job_id, job.model)
            async with self._reader.follow(job_id) as events:
                if asked.stream:
                    wants_usage = asked.stream_options is not None and asked.stream_options.include_usage
                    return await self._stream(request, answer, events, wants_usage)
                return await self._whole(answer, events)
        except RequestError:
            # Refused, or failed by itself: there is nothing to cancel.
            raise
        except BaseException:
            log.info("answer_abandoned", job_id=job_id)
            with contextlib.suppress(RedisError, OSError, QueueError):
                await asyncio.shield(self._queue.cancel(job_id))
            raise

    async def _whole(self, answer: Answer, events: Events) -> web.Response:
        parts: list[str] = []
        async with asyncio.timeout(self._settings.server.request_timeout_s):
            while isinstance(message := await events.get(), Chunk):
                parts.append(message.text)
        check_final(message)
        return web.json_response(answer.whole("".join(parts) + message.tail, message))

    async def _stream(
        self, request: web.Request, answer: Answer, events: Events, wants_usage: bool
    ) -> web.StreamResponse:
        response = await open_events(request)
        if opening := answer.opening():
            await send(response, event(opening))
        try:
            async with asyncio.timeout(self._settings.server.request_timeout_s):
                while isinstance(message := await next_event(events, response), Chunk):
                    await send(response, event(answer.part(message)))
            check_final(message)
        except (RequestError, TimeoutError) as error:
            # The status line is gone: the error travels as the last event, and the stream ends.
            if isinstance(error, TimeoutError):
                with contextlib.suppress(RedisError, OSError):
                    await self._queue.cancel(answer.job_id)
            await send(response, event(error_body(as_request_error(error))))
            return response
        await send(response, event(answer.ending(message)))
        if wants_usage:
            await send(response, event(answer.usage(message)))
        await send(response, DONE)
        return response


async def next_event(events: Events, response: web.StreamResponse) -> Chunk | Final:
    """Wait for a job's next event, keeping the client's connection alive meanwhile."""
    while True:
        try:
            async with asyncio.timeout(KEEP_ALIVE_S):
                return await events.get()
        except TimeoutError:
            await send(response, KEEP_ALIVE)


def run(settings: Settings) -> int:
    """Run a gateway until SIGINT or SIGTERM; returns the exit status. Raises QueueError without Redis."""
    return run_process(settings, serve_http)


async def serve_http(settings: Settings, stop: asyncio.Event) -> None:
    """Serve HTTP until `stop` is set."""
    gateway = Gateway(settings, Tokenizer(target_folder(settings.engine.target)))
    # A cancelled handler is how a client's leaving is noticed before the next write.
    runner = web.AppRunner(gateway.app(), handler_cancellation=True, access_log=None, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.server.host, settings.server.port)
        try:
            await site.start()
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {settings.server.host}:{settings.server.port}: {error.strerror}"
            ) from error
        log.info("gateway_ready", host=settings.server.host, port=settings.server.port)
        await stop.wait()
    finally:
        await runner.cleanup()
