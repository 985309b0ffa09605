"""Every request over HTTP has an id, its sender's or a new one: in the answer's head, in the log, nowhere else.

One line of the log tells how each request ended. The status 499 stands for a client that left before the end, and is
told to the log only.
"""

import logging
import re
import time
import uuid

import structlog
from aiohttp import web

from service.http.bodies import IGNORED_HEADER, ignored_fields
from service.http.http_border import Handler

log = structlog.get_logger()

REQUEST_ID_HEADER = "X-Request-Id"
REQUEST_ID = web.RequestKey("request_id", str)
GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
CLIENT_LEFT = 499
MAX_PATH_LEN = 256
# What is asked for every few seconds is no news.
PROBES = frozenset({"/livez", "/readyz", "/health", "/metrics", "/specd/live"})


@web.middleware
async def with_request_id(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Name a request, and log how it ended."""
    given = request.headers.get(REQUEST_ID_HEADER, "")
    request[REQUEST_ID] = request_id = given if GIVEN_ID.fullmatch(given) else uuid.uuid4().hex
    started_s, status = time.perf_counter(), CLIENT_LEFT
    with structlog.contextvars.bound_contextvars(request_id=request_id):
        try:
            response = await handler(request)
            status = response.status
        finally:
            log.log(
                logging.DEBUG if request.path in PROBES else logging.INFO,
                "request_done",
                method=request.method,
                path=request.path[:MAX_PATH_LEN],
                status=status,
                seconds=round(time.perf_counter() - started_s, 4),
            )
    return response


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Write a request's id, and what was left out of it, into its answer's head; a signal of aiohttp's."""
    if request_id := request.get(REQUEST_ID):
        response.headers[REQUEST_ID_HEADER] = request_id
    if ignored := ignored_fields(request):
        response.headers[IGNORED_HEADER] = ignored
