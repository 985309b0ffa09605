"""Who gets in: every request needs an API key, but for a few endpoints that tell nothing of anybody.

A request without a good key is refused before its body is read, and whether or not there is such an endpoint: a route
is locked unless it is named here. A server without a file of keys asks nobody; it listens on this machine only, unless
it is told that something else guards it (core/config_check.py).
"""

from pathlib import Path

from aiohttp import hdrs, web
from redis.exceptions import RedisError

from core.errors import RequestError
from core.server_settings import ServerSettings
from service.door.api_keys import KeyRing
from service.door.tenant_limits import TenantLimits
from service.door.tenants import ANYBODY, Tenant
from service.http.http_border import Handler
from service.routes.page_routes import PAGE_FILE_PATH, PAGE_PATH

# What supervisors, load balancers and clients probe before they have a key, and what says no more than that specd runs,
# and which. Metrics tell how much is asked for: their scraper needs a key unless `server.open_metrics` says not. The
# page's files are the same for everybody; what they show is asked for with a key.
METRICS_PATH = "/metrics"
OPEN_PATHS = ("/health", "/livez", "/readyz", "/version", METRICS_PATH, PAGE_PATH, PAGE_FILE_PATH)
TENANT = web.RequestKey("tenant", Tenant)


class Doorkeeper:
    """Says of each request whose it is."""

    def __init__(self, settings: ServerSettings, limits: TenantLimits) -> None:
        self._keys = KeyRing(Path(settings.api_keys_file)) if settings.api_keys_file else None
        self._limits = limits
        self._open = {path for path in OPEN_PATHS if path != METRICS_PATH or settings.open_metrics}

    @web.middleware
    async def let_in(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Serve a request for whom it comes from; raises RequestError for one that may not."""
        request[TENANT] = tenant = self._tenant(request)
        if request.method == hdrs.METH_POST:
            try:
                await self._limits.check_rate(tenant)
            except (RedisError, OSError) as error:
                raise RequestError(
                    "the queue is out of reach; try again soon", status=503, code="queue_down"
                ) from error
        return await handler(request)

    def _tenant(self, request: web.Request) -> Tenant:
        # The route that was found counts, not how the path was spelt.
        resource = request.match_info.route.resource
        if self._keys is None or (resource is not None and resource.canonical in self._open):
            return ANYBODY
        scheme, _, key = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        if scheme.lower() == "bearer" and (tenant := self._keys.tenant(key.strip())):
            return tenant
        raise RequestError(
            "a good API key is needed, as `Authorization: Bearer KEY`", status=401, code="invalid_api_key"
        )


def tenant_of(request: web.Request) -> Tenant:
    """Return whom a request comes from, once the doorkeeper has let it in."""
    return request[TENANT]
