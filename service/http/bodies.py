"""Bodies of requests to typed requests; what is left out of one that says too much is named in the answer's head."""

from collections.abc import Iterable, Mapping
from typing import TypeVar

from aiohttp import web
from msgspec import Struct

from service.http.http_border import read_json
from service.http.parse import Unknown, parse, parse_either, refuse
from service.openai import NOT_BUILT, ChatRequest, CompletionRequest

IGNORED_HEADER = "x-specd-ignored"
# Names of fields that were left out, on the request that had them.
IGNORED = web.RequestKey("ignored", list[str])
# A header that grows with the request must end somewhere.
MAX_IGNORED_LEN = 1024

Wanted = TypeVar("Wanted", bound=Struct)


class Bodies:
    """Reads requests. Unknown fields are refused if is_strict, else left out and named in a header of the answer."""

    def __init__(self, *, is_strict: bool) -> None:
        self._is_strict = is_strict

    async def read(
        self,
        request: web.Request,
        wanted: type[Wanted],
        not_built: Mapping[str, tuple[object, ...]] = NOT_BUILT,
    ) -> Wanted:
        """Return the request that a body holds; raises RequestError for what is none."""
        return parse(await read_json(request), wanted, self._unknown(request), not_built)

    async def read_either(self, request: web.Request) -> CompletionRequest | ChatRequest:
        """Return the request of whichever endpoint a body belongs to; raises RequestError for what is none."""
        return parse_either(await read_json(request), self._unknown(request))

    def _unknown(self, request: web.Request) -> Unknown:
        ignored: list[str] = []
        request[IGNORED] = ignored

        def leave_out(name: str, _: Iterable[str]) -> None:
            ignored.append(name)

        return refuse if self._is_strict else leave_out


def ignored_fields(request: web.Request) -> str:
    """Return the names of the fields that were left out, fit for a header; "" for none."""
    names = ", ".join(request.get(IGNORED, []))
    return "".join(char if " " <= char <= "~" else "?" for char in names[:MAX_IGNORED_LEN])
