"""The nouns of the queue: an entry, the claim to its job, and what a claim's holder writes."""

from msgspec import Struct

from client.wire import NORMAL, Chunk, Final, Job


def run_id(job_id: str, epoch: int) -> str:
    """Name one attempt at a job: nothing of an earlier one can be taken for its own."""
    return f"{job_id}:{epoch}"


def job_id_of(name: str) -> str:
    """Return the job of an attempt that `run_id` has named."""
    return name.rpartition(":")[0]


class Entry(Struct, frozen=True):
    """A queue entry in this worker's hands: the stream's id for it, the job it names, the priority it waited with."""

    entry_id: str
    job_id: str
    priority: int = NORMAL


class Claim(Struct, frozen=True):
    """A job taken over: what fences our writes, and the chunks an earlier worker has streamed."""

    entry: Entry
    job: Job
    epoch: int
    streamed: tuple[Chunk, ...]
    is_cancelled: bool
    # Claims, this one included, since the last token was streamed.
    attempts: int
    # Who held the job before; "" if nobody did.
    last_worker: str = ""
    # Until the job's deadline, by Redis's clock; None without one, at most 0 past it.
    left_ms: int | None = None

    @property
    def request_id(self) -> str:
        """The engine's name for this attempt."""
        return run_id(self.job.id, self.epoch)


class Append(Struct, frozen=True):
    """One round's tokens on their way to a job's stream; count is the number of tokens before them."""

    job_id: str
    epoch: int
    count: int
    chunk: Chunk

    @property
    def request_id(self) -> str:
        """The claim's."""
        return run_id(self.job_id, self.epoch)


class Standing(Struct, frozen=True):
    """Where a job stands; generation is 0, or when it was brought back after Redis had lost it (restore.lua)."""

    has_ended: bool
    generation: int


class DeadLetter(Struct, frozen=True):
    """What is kept of a job that was given up: how often it was tried without a new token, and who tried last."""

    job_id: str
    attempts: int
    last_worker: str
    reason: str


class Ending(Struct, frozen=True):
    """The end of a job; entry None where no queue entry is to be acknowledged, letter where it was given up."""

    job_id: str
    epoch: int | None
    final: Final
    entry: Entry | None
    letter: DeadLetter | None = None


class AppendResult(Struct, frozen=True):
    """is_ours is False when another worker owns the job; is_cancelled when its client wants no more."""

    is_ours: bool
    is_cancelled: bool
