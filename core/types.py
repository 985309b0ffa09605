"""Host-side nouns of specd, shared by every layer. No torch here, so the gateway can import them.

Shapes use B sequences in the step, G most drafts, N rows, V vocabulary. Inside kernels the paper's symbols map
one way only: p is the target's law, q the draft's, c a confidence, a a survival (cumulative product of c).
"""

from enum import StrEnum
from typing import Annotated, Protocol

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from core.cost import CostTable
from core.grammar import Grammar

I32 = NDArray[np.int32]
F32 = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
# An array is read as it is; a tuple is for tables of a few entries.
Seconds = NDArray[np.float64] | tuple[float, ...]


class Numerics(StrEnum):
    """How forwards are summed: as fast as may be, or bit for bit the same whatever shares the batch."""

    FAST = "fast"
    BATCH_INVARIANT = "batch_invariant"


class FinishReason(StrEnum):
    """Why a request ended; the value is what clients read."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    ERROR = "error"


class Sampling(Struct, frozen=True, forbid_unknown_fields=True):
    """How to draw tokens. Bounds live in the type; a temperature of 0 is greedy; top_k of 0 means no limit.

    Laws are shaped in a fixed order: logit_bias, penalties, grammar, min_tokens (bans end-of-text and stop ids),
    temperature, top_k, top_p, min_p. The repetition penalty counts prompt and output tokens, the other two output
    tokens only.
    seed      the answer is a function of model, prompt, parameters and seed (the `coupled` verifier)
    stop      texts that end the answer; matched by models/stop.py on text, not by the engine on tokens
    grammar   tokens that lead out of it have no chance; the answer ends where nothing can follow, or with an
              end-of-text token where the grammar allows an end, whatever ignore_eos says
    logprobs  how many alternatives to report beside each token's own log-probability; None reports nothing
    """

    max_tokens: Annotated[int, Meta(ge=1, le=131072)] = 16
    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] = 1.0
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0
    top_k: Annotated[int, Meta(ge=0)] = 0
    min_p: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2.0, le=2.0)] = 0.0
    frequency_penalty: Annotated[float, Meta(ge=-2.0, le=2.0)] = 0.0
    repetition_penalty: Annotated[float, Meta(gt=0.0, le=2.0)] = 1.0
    logit_bias: Annotated[
        tuple[tuple[int, Annotated[float, Meta(ge=-100.0, le=100.0)]], ...], Meta(max_length=1024)
    ] = ()
    min_tokens: Annotated[int, Meta(ge=0, le=131072)] = 0
    stop: Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=1024)], ...], Meta(max_length=16)] = ()
    include_stop_str_in_output: bool = False
    stop_token_ids: Annotated[tuple[int, ...], Meta(max_length=64)] = ()
    ignore_eos: bool = False
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    grammar: Grammar | None = None


class Speculation(Struct, frozen=True, forbid_unknown_fields=True):
    """What a request asks of speculation.

    max_drafts caps its drafts per step (0 is off), None leaves it open; drafter and policy are configured names, None
    takes the engine's default.
    """

    max_drafts: Annotated[int, Meta(ge=0)] | None = None
    drafter: str | None = None
    policy: str | None = None


class Request(Struct, frozen=True):
    """One generation as the engine sees it; it knows nothing of HTTP or Redis.

    output_ids are tokens already streamed by an earlier attempt: limits and usage count them, the prompt does not.
    nonce is 64 random bits that key every draw of this request under `rejection`; two requests must never share one.
    deadline_s is Unix time; the engine only tells policies of it.
    coupled_key is the 64-bit key of the `coupled` verifier, the same in every attempt; None takes `rejection`.
    """

    id: str
    prompt_ids: tuple[int, ...]
    sampling: Sampling
    nonce: int
    output_ids: tuple[int, ...] = ()
    n_index: int = 0
    coupled_key: int | None = None
    cache_salt: str = ""
    speculation: Speculation = Speculation()
    priority: int = 1
    deadline_s: float | None = None


class Backlog(Struct, frozen=True):
    """Requests that wait outside the engine, for any worker, and for how long the oldest of them has."""

    num_waiting: int = 0
    oldest_wait_s: float = 0.0


class TokenLogprobs(Struct, frozen=True):
    """Log-probabilities of one emitted token by the target's raw law: before bias, penalties and temperature.

    top_ids and top_logprobs are the most likely tokens, most likely first; rank is the token's own, from 1.
    """

    logprob: float
    rank: int
    top_ids: tuple[int, ...] = ()
    top_logprobs: tuple[float, ...] = ()


class Emission(Struct, frozen=True):
    """Token ids that leave the engine for one request after one step.

    verified drafts were checked by the target, accepted of them were kept (before any cut at a stop token);
    num_draft_tokens of the emitted `token_ids`, always the first ones, came from the drafter. logprobs has one entry
    per token where the request asked for them. num_cached_tokens of the prompt came from the prefix cache. The drafter
    had proposed num_drafted, of which admission let the verified ones through.
    """

    request_id: str
    token_ids: tuple[int, ...]
    verified: int
    accepted: int
    num_draft_tokens: int
    finish_reason: FinishReason | None = None
    error: str | None = None
    logprobs: tuple[TokenLogprobs, ...] | None = None
    num_cached_tokens: int = 0
    num_drafted: int = 0


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
    drafts are ever admitted. tops, ascending, are numbers of drafts up to which rows cost nothing more (the tops of
    padded batch shapes): where admission stops at n, it goes on, in the same order, to the first of tops that is n or
    more.
    """

    step_s: Seconds
    tops: tuple[int, ...] = ()


Rule = FixedLength | Threshold | TopK | EarlyStop


class Calibration(Struct, frozen=True):
    """Per-position map from evidence to conditional acceptance: sigmoid(slope * evidence + intercept), G entries."""

    slope: tuple[float, ...]
    intercept: tuple[float, ...]


class StepView(Struct, frozen=True):
    """What a policy sees: only facts fixed before this step's drafts are sampled (docs/exactness.md).

    All arrays have one entry per sequence of the policy's group, in batch order.
    gamma_max        most drafts a sequence may have now; 0 while it is prefilling or its drafter state is stale
    samples          the sequence gets a next token in this step, drafts or not; false inside a long prefill
    context_len      tokens whose target KV exists
    stale_rows       rows the drafter has not seen: drafting again first costs them once more (`Plan.follow`)
    survival_lag     [B, G] survival recorded one or more steps ago, nan where there is none yet
    tokens_left      tokens that may still be generated
    priority         of the request; greater is more urgent, 1 is usual
    deadline_in_s    seconds until the request's deadline, negative past it; inf if it has none
    extra_rows       rows of this step outside the group's own anchors and drafts: prefill, other groups' anchors and
                     what groups before this one have planned; extra_sequences are the sequences of other groups
    queue_depth      requests that wait for a slot, in the engine or before it (`Backlog`); oldest_wait_s for how long
                     the oldest of them has
    cost             what steps cost on this machine with this group's drafter; None where nobody measured
    """

    step: int
    slots: I32
    gamma_max: I32
    samples: BoolArray
    context_len: I32
    extra_rows: int
    extra_sequences: int
    stale_rows: I32
    survival_lag: F32
    tokens_left: I32
    priority: I32
    deadline_in_s: F32
    kv_free: float
    queue_depth: int
    oldest_wait_s: float = 0.0
    cost: CostTable | None = None


class Plan(Struct, frozen=True):
    """What a policy may say: how much each sequence drafts (0 = not at all), and one admission rule for the group.

    follow marks sequences whose drafter state is kept up with the target; one that is not followed becomes stale. To
    follow a stale one is to ask for catch-up: its rows run through the target once more in this step (in chunks, if
    they are many), and it can draft in the step after the last of them.
    calibration      None leaves the group's own, learnt from its finished steps
    floor            i32 [B]; so many first drafts are verified before all others, whatever the rule says: a probe,
                     or what a deadline needs. They count in the budget of TopK
    weight           f32 [B] above 0; multiplies survivals where TopK puts drafts in order
    predicted_step_s, predicted_tokens   what the policy expects of the step, if it does; only exported
    """

    draft_len: I32
    rule: Rule
    follow: BoolArray
    calibration: Calibration | None = None
    floor: I32 | None = None
    weight: F32 | None = None
    predicted_step_s: float | None = None
    predicted_tokens: float | None = None


class StepOutcome(Struct, frozen=True):
    """What a finished step taught, for policies and metrics; arrays have one entry per judged sequence of the group.

    rows are the target rows of the whole step, prefill_rows and catch_up_rows of them no verification.
    evidence      f32 [b, G]; the drafts' logits of conditional acceptance before calibration
    survival      f32 [b, G]; what admission saw, 0 past the drafts
    soft_labels   f32 [b, G]; the chance of acceptance before the token was drawn, of verified drafts; hard outcomes
                  under `coupled`. Past a rejection it is that of a text nobody will see
    floored       i32 [b]; drafts that were verified whatever the rule said
    """

    step: int
    slots: I32
    drafted: I32
    verified: I32
    accepted: I32
    step_s: float
    rows: int
    prefill_rows: int
    catch_up_rows: int
    evidence: F32
    survival: F32
    soft_labels: F32
    floored: I32


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
