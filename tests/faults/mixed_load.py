"""Clients of every kind over HTTP: who reads to the end, who leaves, who cancels, who asks for nonsense."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Iterator

import aiohttp

from bench.prompt_pool import PromptPool, Question
from tests.faults.demo_pair import DOMAINS

# A client asks no sooner than so long after it asked last: at a steady rate what is kept for a while is steady too.
PACE_S = 1.0
KINDS = ("read", "read", "whole", "leave", "leave_unheard", "cancel", "refused")


class MixedLoad:
    """num_clients of them, each asking once a second at most, until `stop`.

    ended counts requests by kind, wrong tells what should not be.
    """

    def __init__(self, url: str, num_clients: int, seed: int) -> None:
        self._url, self._num_clients = url, num_clients
        self._rng = random.Random(seed)
        self._questions: Iterator[Question] = PromptPool(DOMAINS, seed).asked_from(0)
        self.ended: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._is_stopped = False

    def stop(self) -> None:
        """Have `run` return when everybody is done with what they began."""
        self._is_stopped = True

    async def run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=120.0)
        async with aiohttp.ClientSession(self._url, timeout=timeout) as http, asyncio.TaskGroup() as group:
            for _ in range(self._num_clients):
                group.create_task(self._ask_forever(http))

    async def _ask_forever(self, http: aiohttp.ClientSession) -> None:
        while not self._is_stopped:
            kind, next_s = self._rng.choice(KINDS), time.monotonic() + PACE_S
            try:
                await getattr(self, f"_{kind}")(http, self._body())
            except (aiohttp.ClientError, TimeoutError) as error:
                self.wrong.append(f"{kind}: {error!r}")
            self.ended[kind] += 1
            await asyncio.sleep(max(0.0, next_s - time.monotonic()))

    def _body(self) -> dict[str, object]:
        law = self._rng.choice(({"temperature": 0.0}, {"temperature": 1.0}, {"temperature": 1.0, "seed": 1}))
        return {"prompt": next(self._questions).text, "max_tokens": self._rng.randint(20, 120), **law}

    def _expect(self, kind: str, response: aiohttp.ClientResponse, status: int = 200) -> bool:
        if response.status != status:
            self.wrong.append(f"{kind}: status {response.status}")
        return response.status == status

    async def _read(self, http: aiohttp.ClientSession, body: dict[str, object]) -> None:
        async with http.post("/v1/completions", json=body | {"stream": True}) as response:
            text = (await response.read()).decode()
        if self._expect("read", response) and not text.endswith("data: [DONE]\n\n"):
            self.wrong.append(f"read: an answer broke off after {text[-200:]!r}")

    async def _whole(self, http: aiohttp.ClientSession, body: dict[str, object]) -> None:
        async with http.post("/v1/completions", json=body) as response:
            answer = await response.json()
        if self._expect("whole", response) and answer["choices"][0]["finish_reason"] not in ("stop", "length"):
            self.wrong.append(f"whole: {json.dumps(answer)[:200]}")

    async def _leave(self, http: aiohttp.ClientSession, body: dict[str, object]) -> None:
        """Go away in the middle of an answer."""
        async with http.post("/v1/completions", json=body | {"stream": True}) as response:
            if self._expect("leave", response):
                for _ in range(self._rng.randint(1, 6)):
                    await response.content.readline()
            response.close()

    async def _leave_unheard(self, http: aiohttp.ClientSession, body: dict[str, object]) -> None:
        """Go away before anything has come."""
        try:
            async with asyncio.timeout(self._rng.uniform(0.0, 0.05)):
                async with http.post("/v1/completions", json=body) as response:
                    await response.read()
        except TimeoutError:
            return

    async def _cancel(self, http: aiohttp.ClientSession, body: dict[str, object]) -> None:
        """Make a job, take it back after a moment, and have it forgotten: its record would stay for a day."""
        async with http.post("/v1/jobs", json=body) as response:
            job = await response.json()
        if not self._expect("cancel", response, 202):
            return
        await asyncio.sleep(self._rng.uniform(0.0, 0.5))
        for ask, path in ((http.post, f"/v1/jobs/{job['id']}/cancel"), (http.delete, f"/v1/jobs/{job['id']}")):
            async with ask(path) as response:
                await response.read()
            self._expect("cancel", response)

    async def _refused(self, http: aiohttp.ClientSession, body: dict[str, object]) -> None:
        async with http.post("/v1/completions", json=body | {"max_tokens": -1}) as response:
            await response.read()
        self._expect("refused", response, 400)
