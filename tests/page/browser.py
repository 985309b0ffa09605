"""A real headless Chromium, driven over its DevTools protocol: what a person does with the page, and what they see.

Protocol: https://chromedevtools.github.io/devtools-protocol/
"""

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless",
    "--remote-debugging-port=0",
    "--no-first-run",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
    # Its sandbox needs what root and containers do not have; it is shown this page alone.
    "--no-sandbox",
)
KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32}
CTRL = 2
LONGEST_S = 60.0
NO_WAIT = aiohttp.ClientWSTimeout(ws_close=0.1)


def chromium() -> str | None:
    """Return the path of a Chromium, the one that SPECD_TEST_CHROMIUM names before those on the PATH."""
    named = os.environ.get("SPECD_TEST_CHROMIUM")
    return named or next((path for name in NAMES if (path := shutil.which(name))), None)


class Tab:
    """One page; requests are the addresses that it asked for, errors what its console holds of warnings and worse."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._ids = socket, itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._session: dict[str, str] = {}
        self.requests: list[str] = []
        self.errors: list[str] = []

    async def open(self) -> None:
        target = await self.send("Target.createTarget", url="about:blank")
        attached = await self.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.send(f"{domain}.enable")

    async def send(self, method: str, **params: object) -> dict[str, Any]:
        """Have a command done; raises RuntimeError if the browser refuses it."""
        number = next(self._ids)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params} | self._session)
        async with asyncio.timeout(LONGEST_S):
            return await self._answers[number]

    async def listen(self) -> None:
        """Take what the browser says until it goes."""
        async for message in self._socket:
            told = json.loads(message.data)
            if "id" in told:
                answer = self._answers.pop(told["id"])
                if not answer.done():
                    fail = RuntimeError(str(told.get("error")))
                    answer.set_exception(fail) if "error" in told else answer.set_result(told["result"])
            else:
                self._saw(told["method"], told["params"])

    def _saw(self, method: str, params: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(str(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.errors.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    async def goto(self, url: str) -> None:
        """Show an address and wait until it is loaded."""
        await self.send("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def value(self, expression: str) -> Any:
        """Return what JavaScript says; raises RuntimeError for what it throws."""
        told = await self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in told:
            raise RuntimeError(str(told["exceptionDetails"]))
        return told["result"].get("value")

    async def until(self, expression: str, timeout_s: float = LONGEST_S) -> Any:
        """Wait until JavaScript says something true, and return it; raises TimeoutError that names it."""
        try:
            async with asyncio.timeout(timeout_s):
                while not (found := await self.value(expression)):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                return found
        except TimeoutError:
            raise TimeoutError(f"never true: {expression}; the console: {self.errors}") from None

    async def press(self, key: str, modifiers: int = 0) -> None:
        """Press and release a key."""
        text = {"Enter": "\r", " ": " "}.get(key, "") if not modifiers else ""
        shared = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key], "modifiers": modifiers}
        await self.send("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **shared)
        await self.send("Input.dispatchKeyEvent", type="keyUp", **shared)

    async def type(self, text: str) -> None:
        """Type into what has the focus."""
        await self.send("Input.insertText", text=text)

    async def look(
        self, width: int, height: int, scheme: str = "light", motion: str = "reduce", scale: int = 1
    ) -> None:
        """Be a screen of this size, in light or dark."""
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
        await self.send("Emulation.setDeviceMetricsOverride", **size)
        wanted = {"prefers-color-scheme": scheme, "prefers-reduced-motion": motion}
        features = [{"name": name, "value": value} for name, value in wanted.items()]
        await self.send("Emulation.setEmulatedMedia", features=features)

    async def screenshot(self, path: Path) -> None:
        """Write a PNG of what is to be seen."""
        told = await self.send("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(told["data"]))  # noqa: ASYNC240


@contextlib.asynccontextmanager
async def browsing(executable: str) -> AsyncIterator[Tab]:
    """Run a Chromium with one empty page for as long as the context lasts."""
    with tempfile.TemporaryDirectory(prefix="specd-chromium-", ignore_cleanup_errors=True) as folder:
        flags = (*FLAGS, f"--user-data-dir={folder}", "about:blank")
        quiet = asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(
            executable, *flags, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True
        )
        try:
            url = await _address(Path(folder) / "DevToolsActivePort")
            async with aiohttp.ClientSession() as http, http.ws_connect(url, max_msg_size=0, timeout=NO_WAIT) as socket:
                tab = Tab(socket)
                listening = asyncio.create_task(tab.listen())
                await tab.open()
                try:
                    yield tab
                finally:
                    listening.cancel()
        finally:
            # Its children are processes of its session.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def _address(file: Path) -> str:
    """Return where a browser that starts can be driven, once it says so."""
    async with asyncio.timeout(LONGEST_S):
        while not (file.exists() and len(lines := file.read_text().split()) == 2):  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.02)
    return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
