"""GET /openapi.json: the endpoints as the server has them, described by the types that read their bodies.

Paths and methods come from the route table, what they do from the handlers' docstrings, bodies from the request types.
What those cannot say stands in the tables here; tests/service/test_openapi.py walks the route table against them.
"""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import msgspec
from aiohttp import hdrs, web
from msgspec import Struct

from service.openai import NOT_BUILT, ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from service.responses.response_request import NOT_BUILT_RESPONSES, ResponseRequest
from service.routes.page_routes import PAGE_FILE_PATH, PAGE_PATH

OPENAPI_PATH = "/openapi.json"
REF = "#/components/schemas/{name}"
JSON, EVENTS, TEXT = "application/json", "text/event-stream", "text/plain"
HTML, STYLE, SCRIPT, DRAWING = "text/html", "text/css", "text/javascript", "image/svg+xml"

# Types of the bodies that endpoints read; of two, the one whose required fields are there.
BODIES: dict[tuple[str, str], tuple[type[Struct], ...]] = {
    ("POST", "/v1/completions"): (CompletionRequest,),
    ("POST", "/v1/chat/completions"): (ChatRequest,),
    ("POST", "/v1/responses"): (ResponseRequest,),
    ("POST", "/v1/jobs"): (CompletionRequest, ChatRequest),
    ("POST", "/tokenize"): (TokenizeRequest,),
    ("POST", "/detokenize"): (DetokenizeRequest,),
}
# Known fields that are not built, by the type that they are no fields of.
REFUSED: dict[type[Struct], Mapping[str, tuple[object, ...]]] = {
    CompletionRequest: NOT_BUILT,
    ChatRequest: NOT_BUILT,
    ResponseRequest: NOT_BUILT_RESPONSES,
}
PARAMETERS: dict[tuple[str, str], tuple[dict[str, Any], ...]] = {
    ("POST", "/v1/jobs"): (
        {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"}},
    ),
    ("GET", "/v1/jobs/{id}/events"): (
        {"name": "starting_after", "in": "query", "schema": {"type": "string"}},
        {"name": "Last-Event-ID", "in": "header", "schema": {"type": "string", "pattern": "^[!-~]*$"}},
    ),
    ("GET", "/v1/responses/{id}"): (
        {"name": "stream", "in": "query", "schema": {"enum": ["true", "false"]}},
        {"name": "starting_after", "in": "query", "schema": {"type": "integer", "minimum": 0, "maximum": 999_999_999}},
    ),
}
# What an endpoint answers with where that is not JSON alone.
CONTENT: dict[tuple[str, str], tuple[str, ...]] = {
    ("POST", "/v1/completions"): (JSON, EVENTS),
    ("POST", "/v1/chat/completions"): (JSON, EVENTS),
    ("POST", "/v1/responses"): (JSON, EVENTS),
    ("GET", "/v1/responses/{id}"): (JSON, EVENTS),
    ("GET", "/v1/jobs/{id}/events"): (EVENTS,),
    ("GET", "/metrics"): (TEXT,),
    ("GET", PAGE_PATH): (HTML,),
    ("GET", PAGE_FILE_PATH): (STYLE, SCRIPT, DRAWING, HTML),
}
# Probes, whose answer says also what is wrong.
PROBES = ("/health", "/readyz")


class ErrorFields(Struct, frozen=True):
    """What went wrong: code is a stable word, param the field of the request that is to blame."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Struct, frozen=True):
    """The body of every answer that is an error."""

    error: ErrorFields


class OpenApiRoutes:
    """GET /openapi.json."""

    def __init__(self, *, is_strict: bool) -> None:
        self._is_strict = is_strict

    def add_to(self, app: web.Application) -> None:
        """Add the route."""
        app.router.add_get(OPENAPI_PATH, self.show)

    async def show(self, request: web.Request) -> web.Response:
        """GET /openapi.json: this description."""
        return web.json_response(describe(request.app, is_strict=self._is_strict))


def describe(app: web.Application, *, is_strict: bool) -> dict[str, Any]:
    """Return the description of an application; a strict one refuses fields that are not described."""
    paths: dict[str, dict[str, Any]] = {}
    for route in app.router.routes():
        if route.resource is not None and route.method != hdrs.METH_HEAD:
            path = route.resource.canonical
            paths.setdefault(path, {})[route.method.lower()] = _operation(route.method, path, route.handler.__doc__)
    return {
        "openapi": "3.1.0",
        "info": {"title": "specd", "version": version("specd")},
        "paths": paths,
        "components": {
            "schemas": _schemas(is_strict=is_strict),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        # A server with API keys asks for one, others ask for none.
        "security": [{}, {"key": []}],
    }


def _operation(method: str, path: str, doc: str | None) -> dict[str, Any]:
    key, summary = (method, path), " ".join((doc or "").partition("\n\n")[0].partition(": ")[2].split())
    told: dict[str, Any] = {"summary": summary, "responses": _responses(key)}
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    in_path = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    if parameters := [*in_path, *PARAMETERS.get(key, ())]:
        told["parameters"] = parameters
    if key in BODIES:
        refs = [{"$ref": REF.format(name=one.__name__)} for one in BODIES[key]]
        told["requestBody"] = _body(refs[0] if len(refs) == 1 else {"oneOf": refs})
    elif method == hdrs.METH_PUT:
        told["requestBody"] = _body({"type": "object"})
    return told


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {JSON: {"schema": schema}}}


def _responses(key: tuple[str, str]) -> dict[str, Any]:
    text: dict[str, Any] = {"type": "string"}
    schemas: dict[str, dict[str, Any]] = {JSON: {}, EVENTS: {}}
    told = {
        "2XX": {
            "description": "The answer.",
            "content": {one: {"schema": schemas.get(one, text)} for one in _content(key)},
        },
        "default": {
            "description": "An error.",
            "content": {JSON: {"schema": {"$ref": REF.format(name=ErrorBody.__name__)}}},
        },
    }
    if key[1] in PROBES:
        told["503"] = {"description": "What is missing.", "content": {JSON: {"schema": {"type": "object"}}}}
    return told


def _content(key: tuple[str, str]) -> tuple[str, ...]:
    return CONTENT.get(key, (JSON,))


def _schemas(*, is_strict: bool) -> dict[str, Any]:
    wanted = list(dict.fromkeys(one for types in BODIES.values() for one in types))
    _, components = msgspec.json.schema_components([*wanted, ErrorBody], ref_template=REF)
    for one in wanted:
        schema = components[one.__name__]
        for name, neutral in REFUSED.get(one, {}).items():
            accepted = {"enum": list(neutral)} if neutral else {}
            schema["properties"].setdefault(name, {"description": "Not supported, or without effect."} | accepted)
        if not is_strict:
            schema.pop("additionalProperties", None)
    return components
