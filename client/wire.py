"""The messages that travel through Redis and in event streams, and the names of the keys they travel in.

Everything here is msgspec, tagged and closed: an unknown field or tag is an error on read. No torch, no tokenizer.
"""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from core.errors import QueueError
from core.types import FinishReason, Sampling, Speculation

INTAKE_STREAM = "specd:intake"
INTAKE_GROUP = "gateways"
# Field of an intake entry that holds the IntakeRequest as JSON.
INTAKE_FIELD = "request"
# Field of an entry of a job's out stream that holds a Chunk or a Final as msgpack.
OUT_FIELD = "m"
WORKER_GROUP = "workers"
# Set of workers that were seen; those alive have a hash (worker_key).
WORKERS_KEY = "specd:workers"

JobId = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$", max_length=32)]


def out_stream(job_id: str) -> str:
    """Return the stream of a job's tokens; braces keep all keys of a job in one cluster slot."""
    return f"specd:{{{job_id}}}:out"


def job_key(job_id: str) -> str:
    """Return the hash that holds a job and its state."""
    return f"specd:{{{job_id}}}:job"


def queue_stream(model: str) -> str:
    """Return the stream of job ids that workers of a model read."""
    return f"specd:q:{model}"


def worker_key(worker: str) -> str:
    """Return the hash by which a live worker says what it serves; it expires when the worker falls silent."""
    return f"specd:w:{worker}"


class Job(Struct, frozen=True, tag="job/1", forbid_unknown_fields=True):
    """One generation, validated and tokenised by a gateway. nonce is 128 random bits, drawn at intake."""

    id: JobId
    model: str
    prompt_ids: tuple[int, ...]
    sampling: Sampling
    nonce: Annotated[bytes, Meta(min_length=16, max_length=16)]
    created_ms: int
    n_index: int = 0
    cache_salt: str = ""
    speculation: Speculation = Speculation()
    priority: int = 1
    deadline_ms: int | None = None


class Usage(Struct, frozen=True, forbid_unknown_fields=True):
    """Tokens as the client counts them."""

    prompt_tokens: int
    completion_tokens: int

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


class Speculated(Struct, frozen=True, forbid_unknown_fields=True):
    """What speculation did for one answer: rounds of verification, drafts verified in them, drafts accepted."""

    rounds: int = 0
    verified: int = 0
    accepted: int = 0

    def plus(self, chunk: "Chunk") -> "Speculated":
        """Return the sums after one more round."""
        return Speculated(self.rounds + 1, self.verified + chunk.verified, self.accepted + chunk.num_drafts)


class WireError(Struct, frozen=True, forbid_unknown_fields=True):
    """Why a job failed, as a client may see it."""

    message: str
    status: int = 500
    code: str = "internal_error"
    param: str | None = None


class Chunk(Struct, frozen=True, tag="c/1", forbid_unknown_fields=True):
    """The tokens of one round. The first num_drafts of them are accepted drafts.

    pieces has one text per token: what became readable with it, empty where a token ends inside a character. reason is
    set on the answer's last chunk, so that a worker that takes over knows that only the Final is missing.
    """

    token_ids: tuple[int, ...]
    pieces: tuple[str, ...]
    verified: int = 0
    num_drafts: int = 0
    reason: FinishReason | None = None

    @property
    def text(self) -> str:
        """The round's text."""
        return "".join(self.pieces)


class Final(Struct, frozen=True, tag="f/1", forbid_unknown_fields=True):
    """The last entry of a job's stream. tail is text that was still held back when the tokens ended."""

    reason: FinishReason
    usage: Usage
    speculated: Speculated = Speculated()
    tail: str = ""
    error: WireError | None = None


class ChatMessage(Struct, frozen=True, forbid_unknown_fields=True):
    """One turn of a dialogue."""

    role: str
    content: str


class IntakeRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """What one writes to the intake stream to submit a job straight through Redis.

    id names the job and its out stream, 32 hexadecimal digits; exactly one of prompt and messages is given.
    """

    id: JobId
    prompt: str | None = None
    messages: tuple[ChatMessage, ...] | None = None
    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_token_ids: tuple[int, ...] | None = None
    ignore_eos: bool | None = None


_events = msgspec.msgpack.Decoder(Chunk | Final)
_jobs = msgspec.msgpack.Decoder(Job)


def encode(message: Job | Chunk | Final) -> bytes:
    """Serialise a message for Redis."""
    return msgspec.msgpack.encode(message)


def decode_event(data: bytes) -> Chunk | Final:
    """Read an entry of an out stream; raises QueueError if it is none."""
    try:
        return _events.decode(data)
    except msgspec.DecodeError as error:
        raise QueueError(f"an out stream holds what is no event: {error}") from error


def decode_job(data: bytes) -> Job:
    """Read a job; raises QueueError if it is none."""
    try:
        return _jobs.decode(data)
    except msgspec.DecodeError as error:
        raise QueueError(f"a job hash holds what is no job: {error}") from error
