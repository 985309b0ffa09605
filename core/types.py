"""Host-side nouns of specd, shared by every layer. No torch here, so the gateway can import them.

Shapes use B sequences in the step, G most drafts, N rows, V vocabulary. Inside kernels the paper's symbols map
one way only: p is the target's law, q the draft's, c a confidence, a a survival (cumulative product of c).
"""

from enum import StrEnum
from typing import Annotated, Protocol

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

I32 = NDArray[np.int32]
F32 = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


class FinishReason(StrEnum):
    """Why a request ended; the value is what clients read."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    ERROR = "error"


class Sampling(Struct, frozen=True, forbid_unknown_fields=True):
    """How to draw tokens. Bounds live in the type; a temperature of 0 is greedy; top_k of 0 means no limit."""

    max_tokens: Annotated[int, Meta(ge=1, le=131072)] = 16
    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] = 1.0
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0
    top_k: Annotated[int, Meta(ge=0)] = 0
    stop_token_ids: Annotated[tuple[int, ...], Meta(max_length=64)] = ()
    ignore_eos: bool = False


class Speculation(Struct, frozen=True, forbid_unknown_fields=True):
    """What a request asks of speculation: `max_drafts` caps its drafts per step (0 is off), None leaves it open."""

    max_drafts: Annotated[int, Meta(ge=0)] | None = None


class Request(Struct, frozen=True):
    """One generation as the engine sees it; it knows nothing of HTTP or Redis.

    output_ids are tokens already streamed by an earlier attempt: limits and usage count them, the prompt does not.
    nonce is 64 random bits that key every draw of this request; two requests must never share one.
    """

    id: str
    prompt_ids: tuple[int, ...]
    sampling: Sampling
    nonce: int
    output_ids: tuple[int, ...] = ()
    n_index: int = 0
    cache_salt: str = ""
    speculation: Speculation = Speculation()
    priority: int = 1
    deadline_s: float | None = None


class Emission(Struct, frozen=True):
    """Token ids that leave the engine for one request after one step.

    verified drafts were checked by the target, accepted of them were kept (before any cut at a stop token);
    num_draft_tokens of the emitted `token_ids`, always the first ones, came from the drafter.
    """

    request_id: str
    token_ids: tuple[int, ...]
    verified: int
    accepted: int
    num_draft_tokens: int
    finish_reason: FinishReason | None = None
    error: str | None = None


# --- What a policy may say -------------------------------------------------------------------------------------


class FixedLength(Struct, frozen=True, tag="fixed_length"):
    """Verify the first `length` drafts of every sequence."""

    length: int


class Threshold(Struct, frozen=True, tag="threshold"):
    """Verify drafts up to the first whose value falls below `value`.

    The value compared is the conditional acceptance of that draft, or the survival of the whole prefix if
    `cumulative`.
    """

    value: float
    cumulative: bool = False


class TopK(Struct, frozen=True, tag="top_k"):
    """Verify the `budget` drafts of greatest survival in the whole group; ties go by position, then row."""

    budget: int


class EarlyStop(Struct, frozen=True, tag="early_stop"):
    """Admit in order of survival until expected tokens per second stop rising (DSpark, Algorithm 1).

    step_s[n] is the step's seconds with n drafts admitted in this group, n = 0..len - 1; no more than len - 1
    drafts are ever admitted.
    """

    step_s: tuple[float, ...]


Rule = FixedLength | Threshold | TopK | EarlyStop


class Calibration(Struct, frozen=True):
    """Per-position map from evidence to conditional acceptance: sigmoid(slope * evidence + intercept), G entries."""

    slope: tuple[float, ...]
    intercept: tuple[float, ...]


class StepView(Struct, frozen=True):
    """What a policy sees: only facts fixed before this step's drafts are sampled (docs/exactness.md).

    All arrays have one entry per sequence of the policy's group, in batch order. survival_lag holds the survival
    recorded one or more steps ago, nan where there is none yet.
    """

    step: int
    slots: I32
    gamma_max: I32
    context_len: I32
    extra_rows: int
    stale_rows: I32
    survival_lag: F32
    kv_free: float
    queue_depth: int


class Plan(Struct, frozen=True):
    """What a policy may say: how much each sequence drafts (0 = not at all), and one admission rule for the group.

    follow marks sequences whose drafter state is kept up with the target; one that is not followed cannot draft
    again until it has caught up.
    """

    draft_len: I32
    rule: Rule
    follow: BoolArray
    calibration: Calibration | None = None


class StepOutcome(Struct, frozen=True):
    """What a finished step taught, for policies and metrics; arrays have one entry per sequence of the group."""

    step: int
    slots: I32
    drafted: I32
    verified: I32
    accepted: I32
    step_s: float


class Policy(Protocol):
    """Decides, before drafts exist, how much to draft and by which rule drafts go to verification.

    `plan` is pure in its inputs and the policy's own state; `observe` learns from finished steps only. A policy
    never sees live survival, so it cannot bias the output whatever it does.
    """

    name: str

    def plan(self, view: StepView) -> Plan:
        """Return the plan of this step for the sequences in `view`."""
        ...

    def observe(self, outcome: StepOutcome) -> None:
        """Learn from a finished step."""
        ...
