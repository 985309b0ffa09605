"""What HTTP saw: requests and their seconds by route, under the names of vLLM's server, whose dashboards ask for them.

The names are those of prometheus-fastapi-instrumentator. A route is its pattern, never a path that somebody sent.
"""

import time
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Middleware
from prometheus_client import CollectorRegistry, Counter, Histogram

# What probes and scrapers ask for all day long.
UNCOUNTED = ("/health", "/livez", "/readyz", "/metrics", "/specd/live")
UNKNOWN_ROUTE = "none"
CLIENT_GONE = 499
SECONDS = (0.1, 0.5, 1.0)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class HttpMetrics:
    """Counters of one gateway; `count` is a middleware, to stand outside of those that turn errors into answers."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("handler", "method")
        self._requests = Counter(
            "http_requests", "Requests by class of status.", (*labels, "status"), registry=registry
        )
        self._seconds = Histogram(
            "http_request_duration_seconds",
            "From a request's head to its answer's end.",
            labels,
            buckets=SECONDS,
            registry=registry,
        )

    @property
    def count(self) -> Middleware:
        """The middleware."""

        @web.middleware
        async def counted(request: web.Request, handler: Handler) -> web.StreamResponse:
            started_s, status = time.perf_counter(), CLIENT_GONE
            try:
                response = await handler(request)
                status = response.status
            finally:
                self._observe(request, status, time.perf_counter() - started_s)
            return response

        return counted

    def _observe(self, request: web.Request, status: int, seconds: float) -> None:
        resource = request.match_info.route.resource
        route = UNKNOWN_ROUTE if resource is None else resource.canonical
        if route in UNCOUNTED:
            return
        # An unknown route may come with any method; there are few that are known.
        method = request.method if resource is not None else UNKNOWN_ROUTE
        self._requests.labels(route, method, f"{status // 100}xx").inc()
        self._seconds.labels(route, method).observe(seconds)
