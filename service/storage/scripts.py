"""The queue's Lua scripts: loaded when opened, run in pipelines, loaded again when Redis has forgotten them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from core.errors import QueueError

LUA_FOLDER = Path(__file__).parents[1] / "lua"
SCRIPTS = {path.stem: path.read_text(encoding="utf-8") for path in sorted(LUA_FOLDER.glob("*.lua"))}
# What Redis says while it cannot write for now; anything else is wrong with this one call and stays wrong. The client
# library turns some of these words into types of their own, but not where Redis 6.2 answers from inside a script.
TRANSIENT = ("OOM", "READONLY", "LOADING", "MISCONF", "MASTERDOWN", "NOREPLICAS")
TRANSIENT_TYPES = (
    *(OutOfMemoryError, ReadOnlyError, BusyLoadingError, MasterDownError),
    # Of a Cluster in which a slot is nobody's, or on its way to another node.
    *(ClusterDownError, AskError, TryAgainError),
)


class Call(Struct, frozen=True):
    """One run of a script."""

    keys: tuple[str, ...]
    values: tuple[str | bytes | int, ...] = ()


class Scripts:
    """Runs scripts by their hash."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._sha: dict[str, str] = {}

    async def load(self) -> None:
        """Load all scripts; raises RedisError."""
        for name, text in SCRIPTS.items():
            self._sha[name] = await self._client.script_load(text)

    async def run(self, script: str, call: Call) -> Any:
        """Run one script and return its answer; raises RedisError."""
        (answer,) = await self.run_all(script, [call])
        if isinstance(answer, ResponseError):
            raise answer
        return answer

    async def run_all(self, script: str, calls: Sequence[Call]) -> list[Any]:
        """Run a script once per call in one round trip.

        A call that Redis refuses for good gets its ResponseError as its answer, so that it cannot harm the others;
        raises RedisError where trying again may help.
        """
        answers: list[Any] = [None] * len(calls)
        missing = list(range(len(calls)))
        for _ in range(2):
            for index, answer in zip(missing, await self._run_once(script, [calls[i] for i in missing]), strict=True):
                if isinstance(answer, RedisError):
                    raise_if_transient(answer)
                answers[index] = answer
            missing = [index for index in missing if isinstance(answers[index], NoScriptError)]
            if not missing:
                return answers
            self._sha[script] = await self._client.script_load(SCRIPTS[script])
        raise QueueError(f"Redis does not keep the script {script!r}")

    async def run_last(self, pipe: Pipeline, script: str, call: Call) -> Any:
        """Run a script after what a pipeline holds, in one round trip, and return its answer; raises RedisError."""
        pipe.execute_command("EVALSHA", self._sha[script], len(call.keys), *call.keys, *call.values)
        *before, answer = await pipe.execute(raise_on_error=False)
        for one in before:
            if isinstance(one, RedisError):
                raise one
        if isinstance(answer, NoScriptError):
            return await self.run(script, call)
        if isinstance(answer, RedisError):
            raise answer
        return answer

    async def _run_once(self, script: str, calls: list[Call]) -> list[Any]:
        if len(calls) == 1:
            return [await self._run_alone(script, calls[0])]
        if not calls:
            return []
        async with self._client.pipeline(transaction=False) as pipe:
            for call in calls:
                # By its name: a Cluster's pipeline has no method for it.
                pipe.execute_command("EVALSHA", self._sha[script], len(call.keys), *call.keys, *call.values)
            answers: list[Any] = await pipe.execute(raise_on_error=False)
        return answers

    async def _run_alone(self, script: str, call: Call) -> Any:
        try:
            return await self._client.evalsha(self._sha[script], len(call.keys), *call.keys, *call.values)
        except ResponseError as error:
            return error


def raise_if_transient(error: RedisError) -> None:
    """Raise an answer of Redis that trying again may change."""
    if isinstance(error, TRANSIENT_TYPES) or any(word in str(error) for word in TRANSIENT):
        raise error
