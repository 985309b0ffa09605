"""/v1/completions and /v1/chat/completions: an answer whole, or streamed as it comes."""

import asyncio
import time
import uuid

from aiohttp import web

from client.wire import Job
from core.config import Settings
from models.tokenizer import Tokenizer
from service.answers.answering import Answering
from service.answers.answers import CHAT, COMPLETION, Answer, Style, error_body
from service.answers.choices import ChoiceWriter
from service.answers.logprobs import LogprobsWriter
from service.answers.respond import stream_answer, whole_answer
from service.answers.tool_calls import call_reader
from service.door.doorkeeper import tenant_of
from service.http.bodies import Bodies
from service.http.fingerprint import system_fingerprint
from service.http.http_border import USER_HEADER, report
from service.jobs import JobMaker
from service.openai import ChatRequest, CompletionRequest
from service.prompts import Prompts
from service.sse import event, open_events, send
from service.storage.followers import Events


class CompletionRoutes:
    """POST /v1/completions and POST /v1/chat/completions."""

    def __init__(
        self,
        settings: Settings,
        jobs: JobMaker,
        prompts: Prompts,
        tokenizer: Tokenizer,
        answering: Answering,
        bodies: Bodies,
    ) -> None:
        self._timeout_s, self._longest_wait_s = settings.server.request_timeout_s, settings.queue.max_wait_s
        self._fingerprint = system_fingerprint(settings, jobs.defaults)
        self._jobs, self._prompts, self._tokenizer = jobs, prompts, tokenizer
        self._answering, self._bodies = answering, bodies

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_post("/v1/completions", self.completions)
        app.router.add_post("/v1/chat/completions", self.chat_completions)

    async def completions(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/completions: go on with a text, or with token ids."""
        asked = await self._bodies.read(request, CompletionRequest)
        echoed = await self._prompts.text(asked) if asked.echo else ""
        return await self._answer(request, asked, COMPLETION, echoed)

    async def chat_completions(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/chat/completions: the assistant's next turn."""
        return await self._answer(request, await self._bodies.read(request, ChatRequest), CHAT)

    async def _answer(
        self, request: web.Request, asked: CompletionRequest | ChatRequest, style: Style, echoed: str = ""
    ) -> web.StreamResponse:
        started_s = time.perf_counter()
        tenant, user_id = tenant_of(request), request.headers.get(USER_HEADER)
        jobs = await self._jobs.make(asked, uuid.uuid4().hex, tenant, user_id, self._longest_wait_s)
        answer = Answer.new(style, jobs[0], asked, fingerprint=self._fingerprint, echoed=echoed)
        names = asked.callable_names
        choices = [
            ChoiceWriter(answer, job.n_index, self._logprobs(job, style), call_reader(job.id, names)) for job in jobs
        ]
        async with self._answering.run(jobs, started_s) as events:
            if asked.stream:
                return await self._stream(request, answer, choices, jobs, events)
            async with asyncio.timeout(self._timeout_s):
                return web.json_response(await whole_answer(answer, choices, events))

    async def _stream(
        self, request: web.Request, answer: Answer, choices: list[ChoiceWriter], jobs: list[Job], events: Events
    ) -> web.StreamResponse:
        response = await open_events(request)
        try:
            async with asyncio.timeout(self._timeout_s):
                await stream_answer(response, answer, choices, events)
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001 - a border: the status line is gone, the error is the last event
            # Told first: Redis may be what does not answer.
            await send(response, event(error_body(report(error, request))))
            await self._answering.cancel(jobs)
        return response

    def _logprobs(self, job: Job, style: Style) -> LogprobsWriter | None:
        return None if job.sampling.logprobs is None else LogprobsWriter(self._tokenizer, is_chat=style.is_chat)
