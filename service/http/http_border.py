"""The border to HTTP: bodies are bounded on the way in, and every error leaves in OpenAI's shape."""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import structlog
from aiohttp import web
from redis.exceptions import RedisError

from client.wire import Final, WireError
from core.errors import QueueError, RequestError
from core.types import FinishReason
from service.answers.answers import error_body
from service.log_text import frames

log = structlog.get_logger()

RETRY_AFTER_S = "1"
# Errors that a request would meet again; clients of OpenAI's repeat every 5xx unless they are told not to.
NOT_TO_REPEAT = ("deadline_exceeded", "attempts_exhausted")
BODY_S = 30.0
# Where an application keeps another time for bodies to arrive in.
BODY_TIMEOUT = web.AppKey("body_timeout_s", float)
# Names the user a request comes from, for the split of users over arms.
USER_HEADER = "x-user-id"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def check_final(final: Final) -> None:
    """Raise RequestError if a job ended without an answer to a client that waits for it."""
    if final.reason is FinishReason.ERROR:
        error = final.error or WireError("the request failed")
        raise RequestError(error.message, status=error.status, param=error.param, code=error.code)
    if final.reason is FinishReason.CANCELLED:
        # Nobody but other gateways cancels an answer whose client waits: they took this one for dead.
        raise RequestError("the answer was given up while its gateway was cut off", status=503, code="answer_given_up")
    if final.reason is FinishReason.DEADLINE:
        raise RequestError("the request's deadline passed", status=504, code="deadline_exceeded")


def as_request_error(error: Exception) -> RequestError:
    """Return what a client may see of an error."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, TimeoutError):
        return RequestError("the answer took too long and was stopped", status=504, code="timeout")
    if isinstance(error, web.HTTPException):
        reason = {404: "no such endpoint", 405: "this endpoint takes another method"}.get(error.status, error.reason)
        return RequestError(str(reason), status=error.status, code=HTTPStatus(error.status).name.lower())
    if isinstance(error, RedisError | OSError | QueueError):
        return RequestError("the queue is out of reach; try again soon", status=503, code="queue_down")
    return RequestError("internal error", status=500, code="internal_error")


async def read_json(request: web.Request) -> bytes:
    """Return the body of a JSON request; raises RequestError for another content type, or a body too large or slow."""
    timeout_s = request.app.get(BODY_TIMEOUT, BODY_S)
    if request.content_type != "application/json":
        raise RequestError(f"Content-Type must be application/json, got {request.content_type!r}", status=415)
    try:
        async with asyncio.timeout(timeout_s):
            return await request.read()
    except TimeoutError:
        raise RequestError(f"the body did not arrive within {timeout_s:g} s", status=408, code="timeout") from None
    except web.HTTPRequestEntityTooLarge as error:
        raise RequestError(f"the body is too large: {error.text}", status=413, code="too_large") from error


def report(error: Exception, request: web.Request) -> RequestError:
    """Return what a client may see of an error; what is our own fault goes to the log."""
    told = as_request_error(error)
    if told.status == HTTPStatus.INTERNAL_SERVER_ERROR and told.code == "internal_error":
        log.error("request_failed", path=request.path, exception=frames(error))
    return told


@web.middleware
async def as_openai_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever a handler raises into an OpenAI error; a stream that has begun tells its own in its last event."""
    try:
        return await handler(request)
    except (ConnectionError, asyncio.CancelledError):
        raise
    except Exception as error:  # noqa: BLE001 - the border to HTTP
        told = report(error, request)
        headers = {"Retry-After": RETRY_AFTER_S} if told.status == HTTPStatus.SERVICE_UNAVAILABLE else {}
        if told.status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        if told.retry_after_s is not None:
            headers["Retry-After"] = str(told.retry_after_s)
        if told.code in NOT_TO_REPEAT:
            headers["x-should-retry"] = "false"
        if isinstance(error, web.HTTPMethodNotAllowed):
            headers["Allow"] = error.headers["Allow"]
        return web.json_response(error_body(told), status=told.status, headers=headers)
