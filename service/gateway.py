"""The HTTP side: OpenAI's endpoints over the queue. Loads no torch and no model, only its tokenizer.

A request becomes a job; its answer is read back from the job's stream, whichever worker writes it. A client that goes
away cancels its job, unless it made it as one (service/job_routes.py).
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST
from redis.asyncio import Redis
from redis.exceptions import RedisError

from client.steps import STEPS_PATH, WorkerSteps
from client.wire import Job, child_id
from core.config import Settings, model_name
from core.errors import ConfigError, QueueError
from models.folders import target_folder
from models.tokenizer import Tokenizer
from service.admin_socket import admin_path, admin_socket
from service.answers import CHAT, COMPLETION, Answer, Style, error_body
from service.choices import ChoiceWriter
from service.doorkeeper import Doorkeeper, tenant_of
from service.drafter_routes import DrafterRoutes
from service.http_border import BODY_TIMEOUT, USER_HEADER, as_openai_errors, read_json, report
from service.intake import Intake
from service.job_routes import JobRoutes
from service.jobs import JobMaker
from service.logprobs import LogprobsWriter
from service.metrics import Metrics
from service.open_answers import OpenAnswers
from service.openai import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from service.parse import parse
from service.process import cancel_all, run_process
from service.prompts import Prompts
from service.queue import JobQueue, connect, redis_url
from service.reader import BLOCK_MS, Events, StreamReader
from service.respond import stream_answer, whole_answer
from service.speculation import known_names
from service.sse import event, open_events, send
from service.sweeper import Sweeper
from service.tenant_limits import TenantLimits
from service.tool_calls import ToolCallReader
from service.upkeep_metrics import UpkeepMetrics
from service.worker_metrics import read_workers, scrape_workers

log = structlog.get_logger()

# Open answers may go on this long after the gateway was asked to stop.
SHUTDOWN_S = 5.0
TOKENIZER_THREADS = 2
# How long what comes of a body that nobody wants any more is read, so that its sender hears why.
LINGER_S = 2.0
# aiohttp's own, told here lest they grow: bytes of the request line, and of one header; headers of one request.
MAX_LINE_BYTES, MAX_HEADER_BYTES, MAX_HEADERS = 8190, 8190, 128


class Gateway:
    """The handlers and what they share."""

    def __init__(self, settings: Settings, tokenizer: Tokenizer) -> None:
        timeout_s, url = settings.queue.command_timeout_s, redis_url(settings.queue)
        self._settings = settings
        self._writing: Redis = connect(url, timeout_s)
        # Blocking reads have a connection of their own, and wait longer than they block.
        self._reading: Redis = connect(url, timeout_s + BLOCK_MS / 1000)
        self._queue = JobQueue(self._writing, settings.queue, model_name(settings))
        self._reader = StreamReader(self._reading, self._writing)
        self._threads = ThreadPoolExecutor(TOKENIZER_THREADS, thread_name_prefix="tokenizer")
        self._tokenizer, self._prompts = tokenizer, Prompts(tokenizer, self._threads)
        self._jobs = JobMaker(settings, self._prompts, self._queue, known_names(settings))
        self._doorkeeper = Doorkeeper(settings.server, TenantLimits(self._queue))
        self._metrics = Metrics(settings)
        self._upkeep = UpkeepMetrics(self._metrics.registry, self._queue.model)
        self._open_answers = OpenAnswers(self._queue)
        self._drafters = DrafterRoutes(settings, self._queue)
        self._job_routes = JobRoutes(self._queue, self._jobs, self._reader, tokenizer)

    def app(self) -> web.Application:
        """Return the aiohttp application."""
        app = web.Application(
            middlewares=[as_openai_errors, self._doorkeeper.let_in],
            client_max_size=self._settings.server.max_body_bytes,
        )
        app[BODY_TIMEOUT] = self._settings.server.body_timeout_s
        app.router.add_post("/v1/completions", self.completions)
        app.router.add_post("/v1/chat/completions", self.chat_completions)
        app.router.add_get("/v1/models", self.models)
        app.router.add_post("/tokenize", self.tokenize)
        app.router.add_post("/detokenize", self.detokenize)
        app.router.add_get("/health", self.health)
        app.router.add_get("/livez", self.livez)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get(STEPS_PATH, self.steps)
        self._drafters.add_to(app)
        self._job_routes.add_to(app)
        app.cleanup_ctx.append(self._background)
        return app

    def admin_app(self) -> web.Application:
        """Return the application that changes the server, for a door of its own."""
        app = web.Application(middlewares=[as_openai_errors], client_max_size=self._settings.server.max_body_bytes)
        self._drafters.add_all_to(app)
        return app

    async def _background(self, _: web.Application) -> AsyncIterator[None]:
        await self._queue.open()
        max_bytes = self._settings.server.max_body_bytes
        intake = Intake(self._reading, self._queue, self._jobs, max_bytes, self._upkeep.group_heals.inc)
        await intake.make_group()
        sweeper = Sweeper(self._queue, self._upkeep)
        async with asyncio.TaskGroup() as group:
            work = (self._reader.run(), intake.run(), sweeper.run(), self._open_answers.keep())
            tasks = [group.create_task(task) for task in work]
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

    async def tokenize(self, request: web.Request) -> web.Response:
        """POST /tokenize: the ids of text or messages, as generation would see them."""
        asked = parse(await read_json(request), TokenizeRequest)
        self._jobs.check_model(asked.model)
        tokens = await self._prompts.tokenize(asked)
        max_model_len = await self._jobs.context_length()
        return web.json_response({"count": len(tokens), "max_model_len": max_model_len, "tokens": tokens})

    async def detokenize(self, request: web.Request) -> web.Response:
        """POST /detokenize: the text of token ids."""
        asked = parse(await read_json(request), DetokenizeRequest)
        self._jobs.check_model(asked.model)
        return web.json_response({"prompt": await self._prompts.detokenize(asked)})

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

    async def metrics(self, _: web.Request) -> web.Response:
        """GET /metrics: what clients saw and what engines did, in Prometheus' text format."""
        text = self._metrics.text() + await scrape_workers(self._queue)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def steps(self, _: web.Request) -> web.Response:
        """GET /specd/steps: what policies saw, expected and chose lately; no text, no ids of jobs."""
        workers = await read_workers(self._queue)
        steps = [WorkerSteps(name, stats.engine.recent_steps) for name, stats in workers.stats.items()]
        return web.Response(body=msgspec.json.encode(steps), content_type="application/json")

    # --- Answers -----------------------------------------------------------------------------------------------

    async def _answer(
        self, request: web.Request, asked: CompletionRequest | ChatRequest, style: Style
    ) -> web.StreamResponse:
        started_s = time.perf_counter()
        jobs = await self._jobs.make(asked, uuid.uuid4().hex, tenant_of(request), request.headers.get(USER_HEADER))
        answer = Answer.new(style, jobs[0], asked)
        choices = [
            ChoiceWriter(answer, job.n_index, self._logprobs(job, style), tool_calls(asked, job.id)) for job in jobs
        ]
        job_ids = [job.id for job in jobs]
        try:
            async with self._submitted(jobs), self._events(jobs, started_s) as events:
                if asked.stream:
                    return await self._stream(request, answer, choices, events)
                async with asyncio.timeout(self._settings.server.request_timeout_s):
                    return web.json_response(await whole_answer(answer, choices, events))
        except BaseException:
            log.info("answer_abandoned", job_id=answer.job_id)
            await self._cancel(job_ids)
            raise

    @contextlib.asynccontextmanager
    async def _submitted(self, jobs: list[Job]) -> AsyncIterator[None]:
        """Submit the jobs of an answer that is not to be gone on with should this gateway die."""
        async with self._open_answers.held([job.id for job in jobs]):
            await self._jobs.submit(jobs)
            yield

    @contextlib.asynccontextmanager
    async def _events(self, jobs: list[Job], started_s: float) -> AsyncIterator[Events]:
        """Deliver what comes for the jobs of a request, and count it."""
        with self._metrics.watch(jobs, started_s) as watch:
            async with self._reader.follow([job.id for job in jobs], watch.saw) as events:
                yield events

    async def _stream(
        self, request: web.Request, answer: Answer, choices: list[ChoiceWriter], events: Events
    ) -> web.StreamResponse:
        response = await open_events(request)
        try:
            async with asyncio.timeout(self._settings.server.request_timeout_s):
                await stream_answer(response, answer, choices, events)
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001 - a border: the status line is gone, the error is the last event
            await self._cancel([child_id(answer.job_id, index) for index in range(len(choices))])
            await send(response, event(error_body(report(error, request))))
        return response

    async def _cancel(self, job_ids: list[str]) -> None:
        """End what still runs or waits of an answer that nobody will read; jobs that have ended stay as they are."""
        with contextlib.suppress(RedisError, OSError, QueueError):
            await asyncio.shield(self._queue.cancel(*job_ids))

    def _logprobs(self, job: Job, style: Style) -> LogprobsWriter | None:
        return None if job.sampling.logprobs is None else LogprobsWriter(self._tokenizer, is_chat=style.is_chat)


def tool_calls(asked: CompletionRequest | ChatRequest, job_id: str) -> ToolCallReader | None:
    """Return what reads the calls out of a choice's text; None where no tools are offered."""
    if not isinstance(asked, ChatRequest) or not asked.offered_tools:
        return None
    return ToolCallReader(job_id, asked.forced_functions)


def run(settings: Settings) -> int:
    """Run a gateway until SIGINT or SIGTERM; returns the exit status. Raises QueueError without Redis."""
    return run_process(settings, serve_http)


async def serve_http(settings: Settings, stop: asyncio.Event) -> None:
    """Serve HTTP until `stop` is set."""
    gateway = Gateway(settings, Tokenizer(target_folder(settings.engine.target, settings.engine.target_revision)))
    # A cancelled handler is how a client's leaving is noticed before the next write.
    runner = web.AppRunner(
        gateway.app(),
        handler_cancellation=True,
        access_log=None,
        shutdown_timeout=SHUTDOWN_S,
        max_line_size=MAX_LINE_BYTES,
        max_field_size=MAX_HEADER_BYTES,
        max_headers=MAX_HEADERS,
        lingering_time=LINGER_S,
    )
    admin = admin_path(settings.server)
    await runner.setup()
    try:
        async with admin_socket(admin, gateway.admin_app()) if admin else contextlib.nullcontext():
            await _listen(runner, settings, stop)
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, settings: Settings, stop: asyncio.Event) -> None:
    site = web.TCPSite(runner, settings.server.host, settings.server.port)
    try:
        await site.start()
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {settings.server.host}:{settings.server.port}: {error.strerror}"
        ) from error
    log.info("gateway_ready", host=settings.server.host, port=settings.server.port)
    await stop.wait()
