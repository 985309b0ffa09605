"""A byte tokenizer, an engine that recites, and a whole service around them in one event loop."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from tokenizers import Tokenizer as HubTokenizer
from tokenizers import decoders, models, pre_tokenizers

from core.config import EngineSettings, ServerSettings, Settings
from core.errors import RequestError
from core.queue_settings import QueueSettings
from core.types import Backlog, Emission, FinishReason, Request, TokenLogprobs
from models.tokenizer import Tokenizer
from service.engine_process.client import EngineClient, engine_at
from service.engine_process.server import EngineServer
from service.engine_process.thread import SteppedEngine
from service.gateway import serve_http
from service.main import base_url, free_port
from service.worker import work

# Two-, three- and four-byte characters, so that tokens end inside of them.
TEXT = "Grüße, €5 für 🎉! "
BYTES = TEXT.encode()
EOS = 256
TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}>{% endif %}"
)


def spoken(num_tokens: int, n_index: int = 0) -> str:
    """Return what the engine recites in so many tokens."""
    whole = BYTES * (num_tokens // len(BYTES) + 2)
    return whole[n_index : n_index + num_tokens].decode(errors="replace")


def byte_alphabet() -> dict[str, int]:
    """Return the byte-level alphabet: one letter per byte, its id the byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in plain}
    others = (byte for byte in range(256) if byte not in letters)
    letters |= {byte: chr(256 + index) for index, byte in enumerate(others)}
    return {letter: byte for byte, letter in letters.items()}


def write_tokenizer(folder: Path) -> Tokenizer:
    """Write a tokenizer with one token per byte and an end token, and load it."""
    backend = HubTokenizer(models.BPE(byte_alphabet(), []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<eos>"])
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    config = {"chat_template": TEMPLATE, "eos_token": "<eos>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return Tokenizer(folder)


def logprobs_of(token: int, request: Request) -> TokenLogprobs:
    """Return what the engine reports of a token: most likely, and the letter x right behind it."""
    num_top = request.sampling.logprobs
    return TokenLogprobs(-0.5, 1, (token, ord("x"))[:num_top], (-0.5, -1.5)[:num_top])


# What 100 rounds showed of the calibration of two positions; of the second all were accepted.
CALIBRATION = {
    "rounds": 100,
    "ece": [0.01, 0.02],
    "auc": [0.8, None],
    "brier": [0.1, 0.2],
    "predicted_length": 2.5,
    "observed_length": 2.4,
}


# Plain steps would have taken half as long again as the steps that were run, and two thirds of what was verified was
# expected to be kept.
BENEFIT = {"plain_s": 3.0, "spent_s": 2.0, "benefit": 1.5, "expected": 4.5}


@dataclass
class FakeEngine:
    """Recites BYTES from where a request stands, three tokens a step of which two were accepted drafts.

    Choice n of a request begins n tokens later in the text. One token of each prompt comes from the prefix cache.
    refuses a prompt that holds byte 0; breaks a whole step when it meets byte 1 in a prompt.
    """

    max_model_len: int = 512
    num_slots: int = 4
    step_s: float = 0.0
    running: dict[str, tuple[Request, int]] = field(default_factory=dict)
    waiting: dict[str, Request] = field(default_factory=dict)
    seen: list[Request] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    most_running: int = 0
    most_waiting: int = 0
    num_steps: int = 0
    num_rounds: int = 0
    num_emitted: int = 0
    runs_apart: bool = False
    backlog: Backlog = field(default_factory=Backlog)
    backlogs: list[Backlog] = field(default_factory=list)

    @property
    def has_work(self) -> bool:
        return bool(self.running or self.waiting)

    @property
    def num_free_slots(self) -> int:
        return max(0, self.num_slots - len(self.running) - len(self.waiting))

    def add(self, request: Request) -> None:
        self.seen.append(request)
        if 0 in request.prompt_ids:
            raise RequestError("zeros are refused", param="prompt", code="zero")
        self.waiting[request.id] = request
        self._admit()
        self.most_waiting = max(self.most_waiting, len(self.waiting))

    def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)
        self.running.pop(request_id, None)
        self.waiting.pop(request_id, None)

    def step(self, meanwhile: Callable[[], None] | None = None) -> list[Emission]:
        self._admit()
        if self.runs_apart and meanwhile:
            meanwhile()
        time.sleep(self.step_s)
        self.backlogs.append(self.backlog)
        if any(1 in request.prompt_ids for request, _ in self.running.values()):
            raise RuntimeError("the step broke")
        self.num_steps += 1
        self.num_rounds += len(self.running)
        emissions = [self._advance(request, done) for request, done in list(self.running.values())]
        self.num_emitted += sum(len(emission.token_ids) for emission in emissions)
        return emissions

    def snapshot(self) -> dict:
        """Return the counts of an engine under one drafter and one policy."""
        rounds, drafts = self.num_rounds, 2 * self.num_rounds
        counts = {"rounds": rounds, "drafted": drafts, "verified": drafts, "accepted": drafts}
        at = {"verified_at": [rounds, rounds], "accepted_at": [rounds, rounds]}
        return {
            "steps": self.num_steps,
            "emitted": self.num_emitted,
            "running": len(self.running),
            "slots": self.num_slots,
            "kv_usage": len(self.running) / self.num_slots,
            "kv_bytes": {"target": 4096, "recital": 0},
            "kv_blocks": {"count": 256, "size": 16},
            "step_tokens": {"bounds": [1.0, 8.0], "counts": [0, self.num_steps, 0], "total": 3.0 * rounds},
            "prefix_queries": 10,
            "prefix_hits": 4,
            "seconds": {"verify": 0.5},
            "fallbacks": {"policy": 1},
            "groups": [{"drafter": "recital", "policy": "fixed"} | counts | at | BENEFIT | {"allowed": drafts + 1}],
            "calibrations": [
                {"drafter": "recital", "policy": "fixed", "report": CALIBRATION, "fallback": 1, "num_alarms": 2}
            ],
            "not_known_to_gateways": [1, {"a": None}],
        }

    def _admit(self) -> None:
        for request in list(self.waiting.values())[: self.num_slots - len(self.running)]:
            self.running[request.id] = (self.waiting.pop(request.id), len(request.output_ids))
        self.most_running = max(self.most_running, len(self.running))

    def _advance(self, request: Request, done: int) -> Emission:
        start, num_tokens = done + request.n_index, min(3, request.sampling.max_tokens - done)
        tokens = [BYTES[(start + i) % len(BYTES)] for i in range(num_tokens)]
        reason = None
        for index, token in enumerate(tokens):
            if token in request.sampling.stop_token_ids:
                tokens, reason = tokens[: index + 1], FinishReason.STOP
                break
        done += len(tokens)
        if reason is None and done == request.sampling.max_tokens:
            reason = FinishReason.LENGTH
        self.running[request.id] = (request, done)
        if reason is not None:
            del self.running[request.id]
        logprobs = None if request.sampling.logprobs is None else tuple(logprobs_of(token, request) for token in tokens)
        return Emission(request.id, tuple(tokens), 2, 2, min(2, len(tokens)), reason, None, logprobs, 1, 4)


@dataclass
class Service:
    """A running gateway and worker, and what tests need to reach them."""

    settings: Settings
    engine: FakeEngine
    http: aiohttp.ClientSession
    stop_gateway: Callable[[], None] | None = None

    @property
    def url(self) -> str:
        return base_url(self.settings)

    @property
    def redis_url(self) -> str:
        return self.settings.queue.redis_url

    async def post(self, path: str = "/v1/completions", **body: object) -> tuple[int, dict]:
        async with self.http.post(self.url + path, json=body) as response:
            return response.status, await response.json()

    async def stream(self, path: str = "/v1/completions", **body: object) -> list[dict]:
        """Return the bodies of a streamed answer, which must end as one."""
        async with self.http.post(self.url + path, json=body | {"stream": True}) as response:
            assert response.status == 200
            events = (await response.read()).split(b"\n\n")
        assert events[-2:] == [b"data: [DONE]", b""]
        return [json.loads(event.removeprefix(b"data: ")) for event in events[:-2]]


def fake_settings(redis_url: str, folder: Path, *, request_timeout_s: float = 30.0, **queue: object) -> Settings:
    """Return settings of a service on the byte tokenizer in `folder`."""
    write_tokenizer(folder)
    port = free_port("127.0.0.1")
    return Settings(
        server=ServerSettings(port=port, model_name="fake", request_timeout_s=request_timeout_s),
        queue=QueueSettings(**{"redis_url": redis_url, "lease_ms": 1000, "command_timeout_s": 1.0, **queue}),
        engine=EngineSettings(target=str(folder)),
    )


@asynccontextmanager
async def served(engine: SteppedEngine, host: object = None, arms: object = None) -> AsyncIterator[EngineClient]:
    """Serve an engine as its process does, from a thread of this one, where a test can look at it."""
    ours, theirs = socket.socketpair()
    with theirs:
        thread = threading.Thread(target=EngineServer(theirs, engine, host, arms).run, daemon=True)
        thread.start()
        async with engine_at(ours) as client:
            yield client
        await asyncio.to_thread(thread.join)


@asynccontextmanager
async def worker(
    settings: Settings, engine: SteppedEngine, host: object = None, tracing: object = None, arms: object = None
) -> AsyncIterator[None]:
    """Run a worker for as long as the context lasts."""
    stop = asyncio.Event()
    async with served(engine, host, arms) as client, asyncio.TaskGroup() as group:
        group.create_task(work(settings, stop, client, Tokenizer(Path(settings.engine.target)), tracing))
        try:
            yield
        finally:
            stop.set()


@asynccontextmanager
async def gateway(
    settings: Settings, *, ready_status: int = 200, stop: asyncio.Event | None = None, tracing: object = None
) -> AsyncIterator[aiohttp.ClientSession]:
    """Run a gateway for as long as the context lasts, or until `stop`, from when its health is as expected."""
    stop = stop or asyncio.Event()
    async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as group:
        group.create_task(serve_http(settings, stop, tracing))
        try:
            await until(lambda: health(http, settings), ready_status)
            yield http
        finally:
            stop.set()


@asynccontextmanager
async def running(settings: Settings, engine: FakeEngine, host: object = None) -> AsyncIterator[Service]:
    """Run a gateway and a worker for as long as the context lasts."""
    stop = asyncio.Event()
    async with worker(settings, engine, host), gateway(settings, stop=stop) as http:
        yield Service(settings, engine, http, stop.set)


async def health(http: aiohttp.ClientSession, settings: Settings) -> int:
    """Return the status of /health, 0 where nobody listens."""
    try:
        async with http.get(f"{base_url(settings)}/health") as response:
            return response.status
    except aiohttp.ClientError:
        return 0


async def until(ask, wanted, timeout_s: float = 10.0) -> None:
    """Wait until `await ask()` is `wanted`."""
    async with asyncio.timeout(timeout_s):
        while await ask() != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def until_true(ask, timeout_s: float = 10.0) -> None:
    """Wait until `ask()` holds."""
    async with asyncio.timeout(timeout_s):
        while not ask():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
