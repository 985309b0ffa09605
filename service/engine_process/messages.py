"""What a worker and its engine tell each other, and how a message becomes bytes: msgpack behind its length.

Both ends are one program and one version, so nothing here is kept or read by anyone else.
"""

import struct
from typing import Any, BinaryIO, Literal

import msgspec
from msgspec import Struct

from client.wire import WireError
from core.config import DrafterSettings, Settings
from core.errors import ConfigError, EngineError, ReplicaLost, SpecdError
from core.experiments.spec import Experiment
from core.types import Backlog, Emission, Request

LENGTH = struct.Struct("!I")

# --- To the engine -----------------------------------------------------------------------------------------------


class Build(Struct, frozen=True, tag="build"):
    """Build an engine of these settings: the first that is told, and the only one until it is Ready."""

    settings: Settings


class Add(Struct, frozen=True, tag="add"):
    """Take a request in before the next step."""

    request: Request


class Abort(Struct, frozen=True, tag="abort"):
    """Drop a request before the next step."""

    request_id: str


class Waiting(Struct, frozen=True, tag="waiting"):
    """What waits in the queue; the engine hears of it with its next step."""

    backlog: Backlog


class Refilled(Struct, frozen=True, tag="refilled"):
    """What could be claimed has been; more is likely to wait if has_backlog."""

    has_backlog: bool


class Read(Struct, frozen=True, tag="read"):
    """A step was read: another may be made."""


class Resume(Struct, frozen=True, tag="resume"):
    """The step that failed is dealt with."""


class Count(Struct, frozen=True, tag="count"):
    """Answer with what has been counted by now."""


class ExpectDrafter(Struct, frozen=True, tag="expect_drafter"):
    """Let requests that name a drafter decode plainly while it is not loaded."""

    name: str


class LoadDrafter(Struct, frozen=True, tag="load_drafter"):
    """Read a drafter's checkpoint beside the steps and put it in between two."""

    name: str
    settings: DrafterSettings


class UnloadDrafter(Struct, frozen=True, tag="unload_drafter"):
    """Take a drafter out."""

    name: str


class MakeArms(Struct, frozen=True, tag="make_arms"):
    """Make an experiment's arms."""

    experiment: Experiment


class ServeArm(Struct, frozen=True, tag="serve_arm"):
    """Let requests that take part be served by one arm, each by its own if `arm` is None."""

    arm: str | None


class EndArms(Struct, frozen=True, tag="end_arms"):
    """Go back to the defaults and let go of the arms."""


Order = Count | ExpectDrafter | LoadDrafter | UnloadDrafter | MakeArms | ServeArm | EndArms


class Call(Struct, frozen=True, tag="call"):
    """Something to be done between two steps; the Answer has the same number."""

    number: int
    order: Order


class Close(Struct, frozen=True, tag="close"):
    """End after the step that runs."""


Told = Build | Add | Abort | Waiting | Refilled | Read | Resume | Call | Close

# --- To the worker -----------------------------------------------------------------------------------------------


class Failure(Struct, frozen=True):
    """An error of the engine's side, and which of ours it is."""

    kind: Literal["config", "replica_lost", "engine", "other"]
    message: str

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        """Tell of an error; what we did not raise on purpose is named with its type."""
        if isinstance(error, ReplicaLost):
            return cls("replica_lost", str(error))
        if isinstance(error, EngineError):
            return cls("engine", str(error))
        if isinstance(error, SpecdError):
            return cls("config" if isinstance(error, ConfigError) else "other", str(error))
        return cls("other", repr(error))

    def error(self) -> SpecdError:
        """Return it as an error to raise."""
        kinds = {"config": ConfigError, "replica_lost": ReplicaLost, "engine": EngineError, "other": SpecdError}
        return kinds[self.kind](self.message)


class Ready(Struct, frozen=True, tag="ready"):
    """The engine can step.

    drafters are those that are loaded, with the MiB of their KV; None where they cannot change. serves_arms tells
    whether it takes part in experiments.
    """

    max_model_len: int
    num_slots: int
    snapshot: dict[str, Any]
    drafters: dict[str, float] | None
    serves_arms: bool


class Unusable(Struct, frozen=True, tag="unusable"):
    """There is no engine, and why; the last that is heard of it."""

    failure: Failure


class Stepped(Struct, frozen=True, tag="stepped"):
    """What one step brought: tokens, and the requests that the engine refused before it, with the reason.

    num_done requests were added or aborted so far, has_work tells whether another step would do anything. held_s is how
    long, in all, no step could be made because the reader was behind.
    """

    emissions: list[Emission]
    refused: list[tuple[str, WireError]]
    num_done: int
    has_work: bool
    held_s: float = 0.0


class Counted(Struct, frozen=True, tag="counted"):
    """What the engine has counted: once in a while, and when it comes to idle, after what that step brought."""

    snapshot: dict[str, Any]


class Broken(Struct, frozen=True, tag="broken"):
    """A step failed; the next is made after Resume."""

    failure: Failure
    num_done: int


class Answer(Struct, frozen=True, tag="answer"):
    """A call is done, or has failed; snapshot is what has been counted by then, drafters are as in Ready."""

    number: int
    failure: Failure | None
    snapshot: dict[str, Any]
    drafters: dict[str, float] | None


Heard = Ready | Unusable | Stepped | Counted | Broken | Answer

encoder = msgspec.msgpack.Encoder()
told_decoder = msgspec.msgpack.Decoder(Told)
heard_decoder = msgspec.msgpack.Decoder(Heard)


def framed(message: Told | Heard) -> bytes:
    """Return a message with its length before it."""
    body = encoder.encode(message)
    return LENGTH.pack(len(body)) + body


def receive_told(frames: BinaryIO) -> Told | None:
    """Wait for the next message to the engine; None if the worker is gone."""
    if len(header := frames.read(LENGTH.size)) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(header)
    return told_decoder.decode(frames.read(length))
