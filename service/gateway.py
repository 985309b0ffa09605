"""The HTTP side: OpenAI's endpoints over the queue. Loads no torch and no model, only its tokenizer.

A request becomes a job; its answer is read back from the job's stream, whichever worker writes it. Each group of
endpoints has a file of its own; here they are given what they share.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import structlog
from aiohttp import web
from redis.asyncio import Redis

from core.config import Settings, model_name
from core.errors import ConfigError
from core.server_settings import ServerSettings
from core.types import PLAIN, SamplingDefaults
from models.folders import target_folder
from models.generation_config import GENERATION_CONFIG, read_generation_config
from models.tokenizer import Tokenizer
from service.answers.answering import Answering
from service.door.doorkeeper import Doorkeeper
from service.door.speculation import known_names
from service.door.tenant_limits import TenantLimits
from service.http.admin_socket import admin_path, admin_socket
from service.http.bodies import Bodies
from service.http.fingerprint import system_fingerprint
from service.http.http_border import BODY_TIMEOUT, as_openai_errors
from service.http.openapi import OpenApiRoutes
from service.http.request_ids import add_headers, with_request_id
from service.jobs import JobMaker
from service.metrics import Metrics
from service.process import cancel_all, run_process
from service.prompts import Prompts
from service.queue import JobQueue
from service.routes.completion_routes import CompletionRoutes
from service.routes.drafter_routes import DrafterRoutes
from service.routes.job_routes import JobRoutes
from service.routes.live import LiveReader
from service.routes.model_routes import ModelRoutes
from service.routes.page_routes import PageRoutes
from service.routes.probe_routes import ProbeRoutes
from service.routes.response_routes import ResponseRoutes
from service.storage.cluster_reader import reader_of
from service.storage.connect import client_of
from service.storage.intake import Intake
from service.storage.reader import BLOCK_MS
from service.telemetry.answer_log import AnswerRecord, log_answer
from service.telemetry.arm_sums import ArmSums
from service.telemetry.http_metrics import HttpMetrics
from service.telemetry.tracing import Tracing, open_tracing
from service.telemetry.upkeep_metrics import UpkeepMetrics
from service.upkeep.lost_jobs import LostJobs
from service.upkeep.open_answers import OpenAnswers
from service.upkeep.sweeper import Sweeper

log = structlog.get_logger()

# Open answers may go on this long after the gateway was asked to stop.
SHUTDOWN_S = 5.0
TOKENIZER_THREADS = 2
# How long what comes of a body that nobody wants any more is read, so that its sender hears why.
LINGER_S = 2.0
# aiohttp's own, told here lest they grow: bytes of the request line, and of one header; headers of one request.
MAX_LINE_BYTES, MAX_HEADER_BYTES, MAX_HEADERS = 8190, 8190, 128


class Gateway:
    """Everything that the endpoints share, and the endpoints."""

    def __init__(
        self,
        settings: Settings,
        tokenizer: Tokenizer,
        tracing: Tracing | None = None,
        defaults: SamplingDefaults = PLAIN,
    ) -> None:
        self._settings, self._tracing = settings, tracing or Tracing()
        self._writing: Redis = client_of(settings.queue)
        # Blocking reads have a connection of their own, and wait longer than they block.
        self._reading: Redis = client_of(settings.queue, BLOCK_MS / 1000)
        self._queue = JobQueue(self._writing, settings.queue, model_name(settings))
        self._reader = reader_of(self._reading, self._writing)
        self._threads = ThreadPoolExecutor(TOKENIZER_THREADS, thread_name_prefix="tokenizer")
        prompts = Prompts(tokenizer, self._threads)
        self._doorkeeper = Doorkeeper(settings.server, TenantLimits(self._queue))
        metrics, bodies = Metrics(settings, self._answered), Bodies(is_strict=settings.server.strict)
        known, traceparent = known_names(settings), self._tracing.traceparent
        self._jobs = jobs = JobMaker(settings, prompts, self._queue, known, metrics.count_shed, traceparent, defaults)
        self._http = HttpMetrics(metrics.registry)
        self._upkeep = UpkeepMetrics(metrics.registry, self._queue.model)
        self._drafters = DrafterRoutes(settings, self._queue)
        self._open_answers, self._arm_sums = OpenAnswers(self._queue), ArmSums()
        live = LiveReader(settings, self._queue, known, self._arm_sums, defaults)
        answering = Answering(self._queue, jobs, self._reader, metrics, self._open_answers)
        self._routes = (
            CompletionRoutes(settings, jobs, prompts, tokenizer, answering, bodies),
            JobRoutes(self._queue, jobs, self._reader, tokenizer, bodies, system_fingerprint(settings, defaults)),
            ResponseRoutes(settings, self._queue, jobs, self._reader, answering, bodies),
            ModelRoutes(settings, jobs, prompts, bodies),
            ProbeRoutes(self._queue, jobs, metrics),
            self._drafters,
            OpenApiRoutes(is_strict=settings.server.strict),
            PageRoutes(live, has_page=settings.server.page),
        )

    def app(self) -> web.Application:
        """Return the aiohttp application."""
        app = web.Application(
            middlewares=[
                with_request_id,
                self._http.count,
                *self._tracing.middlewares,
                as_openai_errors,
                self._doorkeeper.let_in,
            ],
            client_max_size=self._settings.server.max_body_bytes,
        )
        app[BODY_TIMEOUT] = self._settings.server.body_timeout_s
        for routes in self._routes:
            routes.add_to(app)
        app.on_response_prepare.append(add_headers)
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
        sweeper = Sweeper(self._queue, self._upkeep, self._open_answers.gateway)
        async with asyncio.TaskGroup() as group:
            lost = LostJobs(self._queue, self._reader)
            work = (self._reader.run(), intake.run(), sweeper.run(), self._open_answers.keep(), lost.run())
            tasks = [group.create_task(task) for task in work]
            yield
            await cancel_all(tasks)
        self._threads.shutdown(cancel_futures=True)
        await self._reading.aclose()
        await self._writing.aclose()

    def _answered(self, record: AnswerRecord) -> None:
        log_answer(record)
        self._arm_sums.saw(record)
        self._tracing.answered(record)


def run(settings: Settings) -> int:
    """Run a gateway until SIGINT or SIGTERM; returns the exit status. Raises QueueError without Redis."""
    return run_process(settings, serve_http)


async def serve_http(settings: Settings, stop: asyncio.Event, tracing: Tracing | None = None) -> None:
    """Serve HTTP until `stop` is set, with the settings' traces unless others are given."""
    async with open_tracing(settings.tracing, "gateway", tracing) as tracing:
        folder = target_folder(settings.engine.target, settings.engine.target_revision)
        defaults = sampling_defaults(settings.server, folder)
        await _serve(settings, stop, Gateway(settings, Tokenizer(folder), tracing, defaults))


def sampling_defaults(settings: ServerSettings, folder: Path) -> SamplingDefaults:
    """Return what requests are drawn by where they do not say, of the target in a folder.

    What its file asks for and specd does not do is told in one warning. Raises CheckpointError for what it cannot mean.
    """
    if settings.sampling_defaults == "plain":
        return PLAIN
    told = read_generation_config(folder)
    if told.not_taken:
        log.warning("generation_config_not_taken", path=str(folder / GENERATION_CONFIG), keys=told.not_taken)
    if told.defaults != PLAIN:
        log.info("sampling_defaults", path=str(folder / GENERATION_CONFIG), **msgspec.to_builtins(told.defaults))
    return told.defaults


async def _serve(settings: Settings, stop: asyncio.Event, gateway: Gateway) -> None:
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
