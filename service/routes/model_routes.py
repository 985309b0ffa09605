"""The model that is served, and its tokenizer."""

from typing import Any

import msgspec
from aiohttp import web

from core.config import Settings, model_name
from service.http.bodies import Bodies
from service.jobs import JobMaker
from service.openai import DetokenizeRequest, TokenizeRequest
from service.prompts import Prompts


class ModelRoutes:
    """GET /v1/models and /v1/models/NAME, POST /tokenize and /detokenize."""

    def __init__(self, settings: Settings, jobs: JobMaker, prompts: Prompts, bodies: Bodies) -> None:
        self._name, self._jobs, self._prompts, self._bodies = model_name(settings), jobs, prompts, bodies

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get("/v1/models", self.models)
        # Names of the Hugging Face Hub have a slash in them.
        app.router.add_get("/v1/models/{id:.+}", self.model)
        app.router.add_post("/tokenize", self.tokenize)
        app.router.add_post("/detokenize", self.detokenize)

    async def models(self, _: web.Request) -> web.Response:
        """GET /v1/models: the one that is served."""
        return web.json_response({"object": "list", "data": [self._model()]})

    async def model(self, request: web.Request) -> web.Response:
        """GET /v1/models/ID: the one that is served, 404 for every other."""
        self._jobs.check_model(request.match_info["id"])
        return web.json_response(self._model())

    async def tokenize(self, request: web.Request) -> web.Response:
        """POST /tokenize: the ids of text or messages, as generation would see them."""
        asked = await self._bodies.read(request, TokenizeRequest)
        self._jobs.check_model(asked.model)
        tokens = await self._prompts.tokenize(asked)
        max_model_len = await self._jobs.context_length()
        return web.json_response({"count": len(tokens), "max_model_len": max_model_len, "tokens": tokens})

    async def detokenize(self, request: web.Request) -> web.Response:
        """POST /detokenize: the text of token ids."""
        asked = await self._bodies.read(request, DetokenizeRequest)
        self._jobs.check_model(asked.model)
        return web.json_response({"prompt": await self._prompts.detokenize(asked)})

    def _model(self) -> dict[str, Any]:
        return {
            "id": self._name,
            "object": "model",
            "created": 0,
            "owned_by": "specd",
            "sampling_defaults": msgspec.to_builtins(self._jobs.defaults),
        }
