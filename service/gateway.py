"""The HTTP side: OpenAI's endpoints over the queue. Loads no torch and no model, only its tokenizer.

A request becomes a job; its answer is read back from the job's stream, whichever worker writes it. Each group of
endpoints has a file of its own; here they are given what they share.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import structlog
from aiohttp import web
from redis.asyncio import Redis

from core.config import Settings, model_name
from core.errors import ConfigError
from models.folders import target_folder
from models.tokenizer import Tokenizer
from service.answering import Answering
from service.bodies import Bodies
from service.completion_routes import CompletionRoutes
from service.drafter_routes import DrafterRoutes
from service.fingerprint import system_fingerprint
from service.http_border import as_openai_errors
from service.intake import Intake
from service.job_routes import JobRoutes
from service.jobs import JobMaker
from service.metrics import Metrics
from service.model_routes import ModelRoutes
from service.open_answers import OpenAnswers
from service.openapi import OpenApiRoutes
from service.probe_routes import ProbeRoutes
from service.process import cancel_all, run_process
from service.prompts import Prompts
from service.queue import JobQueue, connect
from service.reader import BLOCK_MS, StreamReader
from service.request_ids import add_headers, with_request_id
from service.response_routes import ResponseRoutes
from service.speculation import known_names
from service.sweeper import Sweeper
from service.upkeep_metrics import UpkeepMetrics

log = structlog.get_logger()

# Open answers may go on this long after the gateway was asked to stop.
SHUTDOWN_S = 5.0
TOKENIZER_THREADS = 2


class Gateway:
    """Everything that the endpoints share, and the endpoints."""

    def __init__(self, settings: Settings, tokenizer: Tokenizer) -> None:
        url, timeout_s = settings.queue.redis_url, settings.queue.command_timeout_s
        assert url is not None
        self._max_body_bytes = settings.server.max_body_bytes
        self._writing: Redis = connect(url, timeout_s)
        # Blocking reads have a connection of their own, and wait longer than they block.
        self._reading: Redis = connect(url, timeout_s + BLOCK_MS / 1000)
        self._queue = JobQueue(self._writing, settings.queue, model_name(settings))
        self._reader = StreamReader(self._reading, self._writing)
        self._threads = ThreadPoolExecutor(TOKENIZER_THREADS, thread_name_prefix="tokenizer")
        prompts = Prompts(tokenizer, self._threads)
        self._jobs = jobs = JobMaker(settings, prompts, self._queue, known_names(settings))
        metrics, bodies = Metrics(settings), Bodies(is_strict=settings.server.strict)
        self._upkeep = UpkeepMetrics(metrics.registry, self._queue.model)
        self._open_answers = OpenAnswers(self._queue)
        answering = Answering(self._queue, jobs, self._reader, metrics, self._open_answers)
        self._routes = (
            CompletionRoutes(settings, jobs, prompts, tokenizer, answering, bodies),
            JobRoutes(self._queue, jobs, self._reader, tokenizer, bodies, system_fingerprint(settings)),
            ResponseRoutes(settings, self._queue, jobs, self._reader, answering, bodies),
            ModelRoutes(settings, jobs, prompts, bodies),
            ProbeRoutes(self._queue, jobs, metrics),
            DrafterRoutes(settings, self._queue),
            OpenApiRoutes(is_strict=settings.server.strict),
        )

    def app(self) -> web.Application:
        """Return the aiohttp application."""
        app = web.Application(middlewares=[with_request_id, as_openai_errors], client_max_size=self._max_body_bytes)
        for routes in self._routes:
            routes.add_to(app)
        app.on_response_prepare.append(add_headers)
        app.cleanup_ctx.append(self._background)
        return app

    async def _background(self, _: web.Application) -> AsyncIterator[None]:
        await self._queue.open()
        intake = Intake(self._reading, self._queue, self._jobs, self._upkeep.group_heals.inc)
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


def run(settings: Settings) -> int:
    """Run a gateway until SIGINT or SIGTERM; returns the exit status. Raises QueueError without Redis."""
    return run_process(settings, serve_http)


async def serve_http(settings: Settings, stop: asyncio.Event) -> None:
    """Serve HTTP until `stop` is set."""
    gateway = Gateway(settings, Tokenizer(target_folder(settings.engine.target, settings.engine.target_revision)))
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
