"""The HTTP side of drafters that come and go: who has which, and what is wanted."""

import msgspec
from aiohttp import web

from client.drafters import DRAFTERS_PATH, WorkerDrafters
from core.config import Settings, all_drafters, nearest
from core.errors import ConfigError, RequestError
from service.http.http_border import read_json
from service.http.parse import decode_object
from service.queue import JobQueue
from service.storage.wanted_drafters import WantedDrafters
from service.telemetry.worker_metrics import read_workers


class DrafterRoutes:
    """GET /specd/drafters; on the admin socket PUT and DELETE /specd/drafters/NAME, too."""

    def __init__(self, settings: Settings, queue: JobQueue) -> None:
        self._settings, self._queue, self._wanted = settings, queue, WantedDrafters(queue)

    def add_to(self, app: web.Application) -> None:
        """Add the route that changes nothing."""
        app.router.add_get(DRAFTERS_PATH, self.show)

    def add_all_to(self, app: web.Application) -> None:
        """Add every route."""
        self.add_to(app)
        app.router.add_put(DRAFTERS_PATH + "/{name}", self.load)
        app.router.add_delete(DRAFTERS_PATH + "/{name}", self.unload)

    async def show(self, _: web.Request) -> web.Response:
        """GET: the drafters of every worker."""
        workers = await read_workers(self._queue)
        found = [WorkerDrafters(name, stats.drafters) for name, stats in workers.stats.items()]
        return web.Response(body=msgspec.json.encode(found), content_type="application/json")

    async def load(self, request: web.Request) -> web.Response:
        """PUT: want a drafter, told as in a table [drafters.NAME]; workers load it one after the other, from now on."""
        body = await read_json(request)
        try:
            await self._wanted.load(request.match_info["name"], decode_object(body))
        except ConfigError as error:
            raise RequestError(str(error), code="bad_drafter") from error
        return web.json_response({"status": "wanted"}, status=202)

    async def unload(self, request: web.Request) -> web.Response:
        """DELETE: want a drafter gone."""
        name = request.match_info["name"]
        known = {*all_drafters(self._settings), *await self._wanted.read()}
        if name not in known:
            raise RequestError(f"no drafter {name!r}; {nearest(name, sorted(known))}", status=404, code="not_found")
        await self._wanted.unload(name)
        return web.json_response({"status": "wanted"}, status=202)
