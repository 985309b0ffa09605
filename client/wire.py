"""The messages that travel through Redis and in event streams, and the names of the keys they travel in.

Everything here is msgspec, tagged and closed: an unknown field or tag is an error on read. No torch, no tokenizer.
"""

import hashlib
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from core.errors import QueueError
from core.types import FinishReason, Sampling, Speculation, TokenLogprobs

INTAKE_STREAM = "specd:intake"
INTAKE_GROUP = "gateways"
# Field of an intake entry that holds the IntakeRequest as JSON.
INTAKE_FIELD = "request"
# Field of an entry of a job's out stream that holds a Chunk or a Final as msgpack.
OUT_FIELD = "m"
WORKER_GROUP = "workers"
# Of jobs, most urgent first.
PRIORITIES = HIGH, NORMAL, LOW = 0, 1, 2
# Set of workers that were seen; those alive have a hash (worker_key).
WORKERS_KEY = "specd:workers"

# Where jobs are made and answered for over HTTP.
JOBS_PATH = "/v1/jobs"

JobId = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$", max_length=32)]
# W3C's traceparent: version, trace, parent and flags (https://www.w3.org/TR/trace-context/).
Trace = Annotated[str, Meta(pattern=r"^([0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2})?$", max_length=55)]


def child_id(request_id: str, n_index: int) -> str:
    """Return the job id of a request's n_index-th choice; the first one's is the request's own."""
    return request_id if n_index == 0 else hashlib.sha256(f"{request_id}:{n_index}".encode()).hexdigest()[:32]


def out_stream(job_id: str) -> str:
    """Return the stream of a job's tokens; braces keep all keys of a job in one cluster slot."""
    return f"specd:{{{job_id}}}:out"


def job_key(job_id: str) -> str:
    """Return the hash that holds a job and its state."""
    return f"specd:{{{job_id}}}:job"


def queue_stream(model: str, priority: int = NORMAL) -> str:
    """Return the stream of job ids of one priority that workers of a model read; braces keep all of them together."""
    return f"specd:q:{{{model}}}:p{priority}"


def dead_stream(model: str) -> str:
    """Return the stream of jobs that were given up: an entry of plain fields each (service/storage/claims.py)."""
    return f"specd:dead:{model}"


def deadlines_key(model: str) -> str:
    """Return the sorted set of jobs that have a deadline, by it, in milliseconds of Redis's clock."""
    return f"specd:deadlines:{model}"


def live_key(model: str) -> str:
    """Return the sorted set of a model's live jobs, by the last look at each (service/upkeep/lost_entries.py)."""
    return f"specd:live:{model}"


def gateways_key(model: str) -> str:
    """Return the hash of a model's gateways and their beats (service/upkeep/open_answers.py)."""
    return f"specd:gateways:{model}"


def answers_key(gateway: str) -> str:
    """Return the set of jobs that a gateway holds open connections for."""
    return f"specd:gw:{gateway}:answers"


def worker_key(worker: str) -> str:
    """Return the hash by which a live worker says what it serves; it expires when the worker falls silent."""
    return f"specd:w:{worker}"


def drafters_key(model: str) -> str:
    """Return the hash of drafters that a model's workers are to load (JSON of their settings) or not to have (null)."""
    return f"specd:d:{model}"


def experiment_key(model: str) -> str:
    """Return the hash of the experiment that a model's workers run, or ran last (service/experiments/store.py)."""
    return f"specd:x:{model}"


def units_stream(model: str, experiment: str) -> str:
    """Return the stream of what an experiment's units came to; no experiment's name has a colon."""
    return f"specd:xu:{experiment}:{model}"


class DrafterState(Struct, frozen=True):
    """How a drafter fares in one worker.

    state    what became of the last change that was wanted; `error` says why it failed
    serves   requests that name it get its drafts: also while, or after, a namesake failed to take its place
    kv_mib   KV memory that is reserved for it
    """

    name: str
    state: Literal["loading", "loaded", "unloaded", "failed"]
    serves: bool = False
    kv_mib: float = 0.0
    error: str = ""


class Job(Struct, frozen=True, tag="job/1", forbid_unknown_fields=True, omit_defaults=True):
    """One generation, validated and tokenised by a gateway. nonce is 128 random bits, drawn at intake.

    A request for n choices is n jobs of one nonce, told apart by n_index; each is claimed and taken over alone. arm is
    the experiment arm that chose `speculation`, "" for none. deadline_ms is Unix time by Redis's clock, on which
    all agree. user is what the jobs of one user are counted by, a hash of the name, or "". trace is the span that the
    work on it belongs to, "" where nobody traces.
    """

    id: JobId
    model: str
    prompt_ids: tuple[int, ...]
    sampling: Sampling
    nonce: Annotated[bytes, Meta(min_length=16, max_length=16)]
    created_ms: int
    n_index: int = 0
    cache_salt: str = ""
    speculation: Speculation = Speculation()
    priority: Annotated[int, Meta(ge=HIGH, le=LOW)] = NORMAL
    deadline_ms: int | None = None
    arm: str = ""
    user: str = ""
    trace: Trace = ""


class Usage(Struct, frozen=True, forbid_unknown_fields=True):
    """Tokens as the client counts them; cached_tokens of the prompt came from the prefix cache."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


class Speculated(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What speculation did for one answer: rounds in which drafts were verified, those drafts, the
    accepted ones.

    trimmed drafts were proposed, but not verified.
    """

    rounds: int = 0
    verified: int = 0
    accepted: int = 0
    trimmed: int = 0

    @property
    def drafted(self) -> int:
        """Drafts proposed."""
        return self.verified + self.trimmed

    def plus(self, chunk: "Chunk") -> "Speculated":
        """Return the sums after one more round."""
        return self.merged(Speculated(int(bool(chunk.verified)), chunk.verified, chunk.num_drafts, chunk.trimmed))

    def merged(self, other: "Speculated") -> "Speculated":
        """Return the sums over two answers."""
        return Speculated(
            self.rounds + other.rounds,
            self.verified + other.verified,
            self.accepted + other.accepted,
            self.trimmed + other.trimmed,
        )


class WireError(Struct, frozen=True, forbid_unknown_fields=True):
    """Why a job failed, as a client may see it."""

    message: str
    status: int = 500
    code: str = "internal_error"
    param: str | None = None


class Chunk(Struct, frozen=True, tag="c/1", forbid_unknown_fields=True, omit_defaults=True):
    """The tokens of one round. The first num_drafts of them are accepted drafts.

    pieces has one text per token: what became readable with it, empty where a token ends inside a character or in what
    may begin a stop text. reason is set on the answer's last chunk, so that a worker that takes over knows that only
    the Final is missing. logprobs has one entry per token where the request asked for them; num_cached_tokens of the
    prompt came from the prefix cache, told in the answer's first chunk. trimmed drafts of the round were not verified.
    """

    token_ids: tuple[int, ...]
    pieces: tuple[str, ...]
    verified: int = 0
    num_drafts: int = 0
    reason: FinishReason | None = None
    logprobs: tuple[TokenLogprobs, ...] | None = None
    num_cached_tokens: int = 0
    trimmed: int = 0

    @property
    def text(self) -> str:
        """The round's text."""
        return "".join(self.pieces)


class Final(Struct, frozen=True, tag="f/1", forbid_unknown_fields=True, omit_defaults=True):
    """The last entry of a job's stream. tail is text that was still held back when the tokens ended.

    epoch_changes is how often the job went from one worker to another.
    """

    reason: FinishReason
    usage: Usage
    speculated: Speculated = Speculated()
    tail: str = ""
    error: WireError | None = None
    epoch_changes: int = 0


class ChatMessage(Struct, frozen=True, forbid_unknown_fields=True):
    """One turn of a dialogue."""

    role: str
    content: str


class IntakeRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """What one writes to the intake stream to submit a job straight through Redis.

    id names the job and its out stream, 32 hexadecimal digits; exactly one of prompt and messages is given. The other
    fields mean what they mean over HTTP, where their bounds are checked; logprobs is the number of alternatives for
    chats too. With n > 1, choice i has the out stream of `child_id(id, i)`.
    """

    id: JobId
    prompt: str | tuple[int, ...] | None = None
    messages: tuple[ChatMessage, ...] | None = None
    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    min_tokens: int | None = None
    stop: str | tuple[str, ...] | None = None
    include_stop_str_in_output: bool | None = None
    stop_token_ids: tuple[int, ...] | None = None
    ignore_eos: bool | None = None
    seed: int | None = None
    n: int | None = None
    priority: int | None = None
    deadline_ms: int | None = None
    logprobs: int | None = None
    speculation: Speculation | Literal["off"] | bool | None = None
    cache_salt: str | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    user: str | None = None


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
