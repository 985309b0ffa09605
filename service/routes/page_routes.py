"""The page: a playground and charts for a browser, and the numbers that it draws.

Its files are read once and are the same for everybody, so that they need no key: a browser shows none when somebody
types an address. What they show does: the page asks for a key and sends it with each request of its own.
"""

from importlib.resources import files

import msgspec
from aiohttp import hdrs, web

from core.errors import RequestError
from service.routes.live import LiveReader

PAGE_PATH = "/page"
PAGE_FILE_PATH = "/page/{name}"
LIVE_PATH = "/specd/live"
INDEX = "index.html"
CONTENT_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
# Scripts and styles are the page's own files; nothing is loaded from, sent to or shown in another origin, and no text
# becomes markup.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # After an upgrade no file of the old page may meet one of the new.
    hdrs.CACHE_CONTROL: "no-cache",
}


class PageRoutes:
    """GET /page, /page/NAME and /specd/live; without has_page the last one only."""

    def __init__(self, live: LiveReader, *, has_page: bool) -> None:
        self._live, self._files = live, page_files() if has_page else {}

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get(LIVE_PATH, self.live)
        if self._files:
            app.router.add_get(PAGE_PATH, self.page)
            app.router.add_get(PAGE_FILE_PATH, self.file)

    async def page(self, _: web.Request) -> web.Response:
        """GET /page: a playground, and charts of what speculation does."""
        return self._response(INDEX)

    async def file(self, request: web.Request) -> web.Response:
        """GET /page/NAME: one of the page's files."""
        return self._response(request.match_info["name"])

    async def live(self, _: web.Request) -> web.Response:
        """GET /specd/live: what the page draws; no text, no ids of jobs."""
        body = msgspec.json.encode(await self._live.read())
        return web.Response(body=body, content_type="application/json", headers={hdrs.CACHE_CONTROL: "no-store"})

    def _response(self, name: str) -> web.Response:
        if name not in self._files:
            raise RequestError("the page has no such file", status=404, code="not_found")
        kind = CONTENT_TYPES[name[name.rindex(".") :]]
        return web.Response(body=self._files[name], content_type=kind, charset="utf-8", headers=HEADERS)


def page_files() -> dict[str, bytes]:
    """Return the page's files by name."""
    return {one.name: one.read_bytes() for one in files("service").joinpath("page").iterdir() if one.is_file()}
