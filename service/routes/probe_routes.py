"""What those ask who watch a service: whether it lives and serves, its version, its numbers."""

from importlib.metadata import version

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST
from redis.exceptions import RedisError

from client.steps import STEPS_PATH, WorkerSteps
from service.jobs import JobMaker
from service.metrics import Metrics
from service.queue import JobQueue
from service.telemetry.worker_metrics import read_workers, scrape_workers


class ProbeRoutes:
    """GET /livez, /readyz, /health, /version, /metrics and /specd/steps."""

    def __init__(self, queue: JobQueue, jobs: JobMaker, metrics: Metrics) -> None:
        self._queue, self._jobs, self._metrics = queue, jobs, metrics

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get("/livez", self.livez)
        app.router.add_get("/readyz", self.health)
        app.router.add_get("/health", self.health)
        app.router.add_get("/version", self.version)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get(STEPS_PATH, self.steps)

    async def livez(self, _: web.Request) -> web.Response:
        """GET /livez: the process runs."""
        return web.json_response({"status": "ok"})

    async def health(self, _: web.Request) -> web.Response:
        """GET /readyz, /health: Redis answers and a worker serves the model; 503 otherwise."""
        try:
            workers = len(await self._jobs.context_lengths())
        except (RedisError, OSError):
            return web.json_response({"status": "error", "redis": False, "workers": 0}, status=503)
        body = {"status": "ok" if workers else "waiting", "redis": True, "workers": workers}
        return web.json_response(body, status=200 if workers else 503)

    async def version(self, _: web.Request) -> web.Response:
        """GET /version: specd's."""
        return web.json_response({"version": version("specd")})

    async def metrics(self, _: web.Request) -> web.Response:
        """GET /metrics: what clients saw and what engines did, in Prometheus' text format."""
        text = self._metrics.text() + await scrape_workers(self._queue)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def steps(self, _: web.Request) -> web.Response:
        """GET /specd/steps: what policies saw, expected and chose lately; no text, no ids of jobs."""
        workers = await read_workers(self._queue)
        steps = [WorkerSteps(name, stats.engine.recent_steps) for name, stats in workers.stats.items()]
        return web.Response(body=msgspec.json.encode(steps), content_type="application/json")
