"""The job queue on Redis: submit, claim, append, finish, each fenced so that no token is ever lost or repeated.

Every claim raises a job's epoch; every append names the epoch and the count of tokens before it, and Redis refuses
what does not fit (service/lua). A claim is kept alive by heartbeats; an entry that falls silent for a lease is taken
over, and the answer goes on from the tokens that were streamed.
"""

from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct
from redis.asyncio import Redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.retry import Retry

from client.wire import (
    OUT_FIELD,
    WORKER_GROUP,
    Chunk,
    Final,
    Job,
    decode_event,
    decode_job,
    encode,
    job_key,
    out_stream,
    queue_stream,
)
from core.config import QueueSettings
from core.errors import QueueError

LUA_FOLDER = Path(__file__).parent / "lua"
SCRIPTS = {path.stem: path.read_text(encoding="utf-8") for path in sorted(LUA_FOLDER.glob("*.lua"))}
# A queued job that nobody finishes is forgotten after this long.
LIVE_TTL_S = 24 * 3600
STATES = {"stop": "done", "length": "done", "cancelled": "cancelled", "deadline": "expired", "error": "failed"}


class Entry(Struct, frozen=True):
    """A queue entry in this worker's hands: the stream's id for it and the job it names."""

    entry_id: str
    job_id: str


class Claim(Struct, frozen=True):
    """A job taken over: what fences our writes, and the events an earlier worker has streamed."""

    entry: Entry
    job: Job
    epoch: int
    streamed: tuple[Chunk, ...]
    is_cancelled: bool


class Append(Struct, frozen=True):
    """One round's tokens on their way to a job's stream; count is the number of tokens before them."""

    job_id: str
    epoch: int
    count: int
    chunk: Chunk


class Ending(Struct, frozen=True):
    """The end of a job; entry None where no queue entry is to be acknowledged."""

    job_id: str
    epoch: int | None
    final: Final
    entry: Entry | None


class AppendResult(Struct, frozen=True):
    """is_ours is False when another worker owns the job; is_cancelled when its client wants no more."""

    is_ours: bool
    is_cancelled: bool


def connect(url: str, timeout_s: float) -> Redis:
    """Return a client that fails within `timeout_s` and never repeats a command by itself."""
    # A repeated XADD could land twice; our own writes carry what makes them safe to repeat.
    return Redis.from_url(
        url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0), protocol=2
    )


class JobQueue:
    """The queue of one model; used by gateways (submit, cancel) and workers (the rest)."""

    def __init__(self, client: Redis, settings: QueueSettings, model: str) -> None:
        self.client, self.settings, self.model = client, settings, model
        self._stream = queue_stream(model)
        self._sha: dict[str, str] = {}

    async def open(self) -> None:
        """Check that Redis answers, load the scripts, make the group; raises QueueError if Redis is out of reach."""
        try:
            for name, text in SCRIPTS.items():
                self._sha[name] = await self.client.script_load(text)
            await make_group(self.client, self._stream, WORKER_GROUP)
        except (RedisError, OSError) as error:
            raise QueueError(f"Redis is out of reach: {error}") from error

    async def submit(self, job: Job) -> bool:
        """Create a job and queue it; False if its id exists."""
        created = await self._run("submit", [job_key(job.id)], [encode(job), job.created_ms, LIVE_TTL_S])
        if created:
            await self.client.xadd(self._stream, {"j": job.id})
        return bool(created)

    async def depth(self) -> int:
        """Return how many jobs are queued or running."""
        depth: int = await self.client.xlen(self._stream)
        return depth

    async def cancel(self, job_id: str) -> None:
        """Ask for a job's end; the worker that runs it hears of it with its next append."""
        await self._run("cancel", [job_key(job_id)], [])

    async def read(self, worker: str, count: int, block_ms: int) -> list[Entry]:
        """Return up to `count` new entries, waiting up to `block_ms` for the first."""
        answer = await self.client.xreadgroup(WORKER_GROUP, worker, {self._stream: ">"}, count=count, block=block_ms)
        return [entry for _, rows in answer or [] for entry in _entries(rows)]

    async def reclaim(self, worker: str, count: int) -> list[Entry]:
        """Return up to `count` entries whose worker has been silent for a lease."""
        # Redis 6.2 answers with two elements, 7 with three.
        answer = await self.client.xautoclaim(
            self._stream, WORKER_GROUP, worker, min_idle_time=self.settings.lease_ms, count=count
        )
        return _entries(answer[1])

    async def claim(self, entry: Entry, worker: str) -> Claim | None:
        """Take a job over; None, with the entry acknowledged, if it has ended or is unknown."""
        epoch, count, cancel, data = await self._run("claim", [job_key(entry.job_id)], [worker])
        if epoch < 0:
            await self._acknowledge([entry])
            return None
        streamed: tuple[Chunk, ...] = ()
        if count:
            rows = await self.client.xrange(out_stream(entry.job_id))
            events = [decode_event(fields[OUT_FIELD.encode()]) for _, fields in rows]
            streamed = tuple(event for event in events if isinstance(event, Chunk))
        return Claim(entry, decode_job(data), epoch, streamed, bool(cancel))

    async def append(self, appends: Sequence[Append]) -> list[AppendResult]:
        """Append the rounds of one step in one round trip."""
        rows = await self._pipeline(
            "emit",
            [
                (
                    [job_key(one.job_id), out_stream(one.job_id)],
                    [one.epoch, one.count, len(one.chunk.token_ids), encode(one.chunk)],
                )
                for one in appends
            ],
        )
        # Status -3 says that this very write has landed before: it is ours and it is done.
        return [AppendResult(status != -1, bool(cancel)) for status, cancel in rows]

    async def finish(self, endings: Sequence[Ending]) -> None:
        """End jobs, once each, and acknowledge their entries."""
        await self._pipeline(
            "finish",
            [
                (
                    [job_key(one.job_id), out_stream(one.job_id)],
                    [
                        "" if one.epoch is None else one.epoch,
                        STATES[one.final.reason],
                        encode(one.final),
                        self.settings.result_ttl_s,
                    ],
                )
                for one in endings
            ],
        )
        await self._acknowledge([one.entry for one in endings if one.entry])

    async def _acknowledge(self, entries: Sequence[Entry]) -> None:
        if entries:
            ids = [entry.entry_id for entry in entries]
            async with self.client.pipeline(transaction=False) as pipe:
                # An acknowledged entry stays in the stream until it is deleted.
                await pipe.xack(self._stream, WORKER_GROUP, *ids).xdel(self._stream, *ids).execute()

    async def _run(self, script: str, keys: list[str], values: list[object]) -> list[int]:
        (answer,) = await self._pipeline(script, [(keys, values)])
        return answer

    async def _pipeline(self, script: str, calls: list[tuple[list[str], list[object]]]) -> list[list[int]]:
        if not calls:
            return []
        for _ in range(2):
            async with self.client.pipeline(transaction=False) as pipe:
                for keys, values in calls:
                    pipe.evalsha(self._sha[script], len(keys), *keys, *values)
                try:
                    answers: list[list[int]] = await pipe.execute()
                except NoScriptError:
                    # Redis was restarted; loading and repeating is safe, every script refuses what has landed.
                    self._sha[script] = await self.client.script_load(SCRIPTS[script])
                    continue
                return answers
        raise QueueError(f"Redis does not keep the script {script!r}")


async def make_group(client: Redis, stream: str, group: str) -> None:
    """Create a consumer group that sees the stream from its start; one that exists is left alone."""
    try:
        await client.xgroup_create(stream, group, id="0", mkstream=True)
    except ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise


def _entries(rows: Sequence[tuple[bytes, dict[bytes, bytes]]]) -> list[Entry]:
    return [Entry(entry_id.decode(), fields[b"j"].decode()) for entry_id, fields in rows if fields]
