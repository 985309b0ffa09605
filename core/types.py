"""Host-side nouns of requests and answers, shared by every layer. No torch and no numpy: the gateway imports them."""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from core.grammar import Grammar


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


Temperature = Annotated[float, Meta(ge=0.0, le=2.0)]
TopP = Annotated[float, Meta(gt=0.0, le=1.0)]
TopK = Annotated[int, Meta(ge=0)]
MinP = Annotated[float, Meta(ge=0.0, le=1.0)]
RepetitionPenalty = Annotated[float, Meta(gt=0.0, le=2.0)]


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
    temperature: Temperature = 1.0
    top_p: TopP = 1.0
    top_k: TopK = 0
    min_p: MinP = 0.0
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2.0, le=2.0)] = 0.0
    frequency_penalty: Annotated[float, Meta(ge=-2.0, le=2.0)] = 0.0
    repetition_penalty: RepetitionPenalty = 1.0
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


class SamplingDefaults(Struct, frozen=True):
    """How tokens are drawn where a request does not say: plain, the target's own law, unless its makers say otherwise.

    Fields, bounds and plain values are those of `Sampling`.
    """

    temperature: Temperature = 1.0
    top_p: TopP = 1.0
    top_k: TopK = 0
    min_p: MinP = 0.0
    repetition_penalty: RepetitionPenalty = 1.0


PLAIN = SamplingDefaults()


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
