"""The OpenAI surface as types: what requests may say, and what is refused by name.

Sampling fields have the names of OpenAI and vLLM and the bounds of `core.types.Sampling`. Every known field that is not
built is refused with a 400 that names it, unless its value asks for nothing (service/http/parse.py).
"""

from typing import Annotated, Literal, TypeVar

from msgspec import Meta, Struct

from client.wire import HIGH, LOW, NORMAL
from core.errors import RequestError
from core.grammar import Grammar
from core.types import PLAIN, Sampling, SamplingDefaults, Speculation
from service.answers.response_format import ResponseFormat, StructuredOutputs, format_grammar
from service.answers.tool_calls import Function, Tool, ToolChoice, call_grammar, forced_functions

# Known fields that are not built, with the values that ask for nothing.
NOT_BUILT: dict[str, tuple[object, ...]] = {
    "allowed_token_ids": (None,),
    "audio": (None,),
    "bad_words": (None, []),
    "chat_template": (None,),
    "chat_template_kwargs": (None, {}),
    "continue_final_message": (None, False),
    "function_call": (None, "none"),
    "functions": (None, []),
    "guided_json": (None,),
    "length_penalty": (None, 1),
    "logits_processors": (None, []),
    "modalities": (None, ["text"]),
    "prediction": (None,),
    "prompt_embeds": (None,),
    "prompt_logprobs": (None,),
    "reasoning_effort": (None,),
    "skip_special_tokens": (None, True),
    "spaces_between_special_tokens": (None, True),
    "suffix": (None, ""),
    "truncate_prompt_tokens": (None,),
    "use_beam_search": (None, False),
    "verbosity": (None,),
    "web_search_options": (None,),
    # Known and without effect here, whatever they say.
    "metadata": (),
    "prompt_cache_key": (),
    "prompt_cache_retention": (),
    "safety_identifier": (),
    "service_tier": (),
    "store": (),
}

# The bounds of Sampling.max_tokens.
MAX_TOKENS = 131072
MaxTokens = Annotated[int, Meta(ge=1, le=MAX_TOKENS)]
# A stop text is looked for after every token, so it is short. Bytes are counted below, where they are known.
MAX_STOP_BYTES = 256
StopText = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_BYTES)]
# An empty text stands for no stop, as it does for OpenAI.
Stop = Annotated[str, Meta(max_length=MAX_STOP_BYTES)] | Annotated[list[StopText], Meta(max_length=16)]
Penalty = Annotated[float, Meta(ge=-2.0, le=2.0)]
Bias = Annotated[float, Meta(ge=-100.0, le=100.0)]
MAX_CHOICES = 8
# No context is as long as these, which only bound what is looked at.
MAX_TOKEN_IDS = 1 << 20
MAX_MESSAGES = 4096
TokenIds = Annotated[list[int], Meta(max_length=MAX_TOKEN_IDS)]
# A day, after which Redis forgets a job that nobody finished.
MAX_DEADLINE_MS = 86_400_000
Alternatives = Annotated[int, Meta(ge=0, le=20)]

Number = TypeVar("Number", int, float)


class StreamOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Options of a streamed answer: a last chunk with the usage, or the usage so far in every chunk."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class TextPart(Struct, frozen=True, tag_field="type", tag="text"):
    """One text part of a message's content."""

    text: str


class CalledFunction(Struct, frozen=True):
    """What an earlier answer called, arguments as JSON."""

    name: str
    arguments: str


class Called(Struct, frozen=True):
    """A call of an earlier answer."""

    function: CalledFunction
    id: str = ""
    type: Literal["function"] = "function"


class Message(Struct, frozen=True):
    """One chat message; content is text or a list of text parts, or nothing beside tool_calls.

    tool_call_id  in a message of the role `tool`: whose result it is
    """

    role: str
    content: str | list[TextPart] | None = None
    tool_calls: list[Called] | None = None
    tool_call_id: str | None = None

    def __post_init__(self) -> None:
        if self.content is None and not self.tool_calls:
            raise ValueError("a message needs content or tool_calls")

    @property
    def text(self) -> str:
        """The message's text."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "".join(part.text for part in self.content)


class SharedFields(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What both endpoints take.

    n choices are drawn from one prompt. speculation caps drafts, or names a configured drafter or policy; "off" and
    false ask for none. priority is vLLM's: less is more urgent, 0 is usual. deadline_ms is how long the answer may
    take, from when it was asked for. cache_salt keeps a tenant's prompts apart in the prefix cache. With
    spec_decode_metrics "detailed" the answer's metrics tell of every step.
    """

    model: str | None = None
    max_tokens: MaxTokens | None = None
    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] | None = None
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0.0, le=2.0)] | None = None
    logit_bias: Annotated[dict[int, Bias], Meta(max_length=1024)] | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=MAX_TOKENS)] | None = None
    stop: Stop | None = None
    include_stop_str_in_output: bool | None = None
    stop_token_ids: Annotated[tuple[int, ...], Meta(max_length=64)] | None = None
    ignore_eos: bool | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    best_of: int | None = None
    return_token_ids: bool | None = None
    spec_decode_metrics: Literal["summary", "detailed"] | None = None
    priority: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] | None = None
    deadline_ms: Annotated[int, Meta(ge=1, le=MAX_DEADLINE_MS)] | None = None
    speculation: Speculation | Literal["off"] | bool | None = None
    cache_salt: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None

    @property
    def num_choices(self) -> int:
        """How many answers to draw; raises RequestError if best_of asks for more than are shown."""
        if self.best_of not in (None, self.n or 1):
            raise RequestError(
                f"best_of must equal n or be left out; n is {self.n or 1}, best_of was {self.best_of}", param="best_of"
            )
        return self.n or 1

    @property
    def job_priority(self) -> int:
        """The priority among jobs: below 0 is high, above it is low."""
        asked = self.priority or 0
        return NORMAL if asked == 0 else HIGH if asked < 0 else LOW

    @property
    def asked_speculation(self) -> Speculation:
        """What the request asks of speculation."""
        if isinstance(self.speculation, Speculation):
            return self.speculation
        return Speculation(max_drafts=0) if self.speculation in ("off", False) else Speculation()

    @property
    def wants_usage(self) -> bool:
        """Whether a streamed answer ends with its usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def wants_running_usage(self) -> bool:
        """Whether every streamed chunk tells the usage so far."""
        return self.stream_options is not None and self.stream_options.continuous_usage_stats

    @property
    def callable_names(self) -> tuple[str, ...] | None:
        """Names of the functions of which one must be called, () where the model may choose; None without tools."""
        return None

    @property
    def grammar(self) -> Grammar | None:
        """The grammar of the answer; None where any text will do. RequestError if it cannot be taken, or two are."""
        asked = format_grammar(self.response_format)
        if self.structured_outputs is None:
            return asked
        if asked is not None:
            raise RequestError("give response_format or structured_outputs, not both", param="structured_outputs")
        return self.structured_outputs.wanted

    def shared_sampling(self, max_tokens: int, logprobs: int | None, defaults: SamplingDefaults) -> Sampling:
        """Return the engine's form of the sampling fields; raises RequestError if they contradict each other.

        defaults stand for those of its fields that are left out. logprobs is how many tokens to report beside each
        token's own log-probability; None reports nothing.
        """
        min_tokens = self.min_tokens or 0
        if min_tokens > max_tokens:
            raise RequestError(
                f"min_tokens must be at most max_tokens, which is {max_tokens}; it was {min_tokens}", param="min_tokens"
            )
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if any(len(text.encode()) > MAX_STOP_BYTES for text in stop):
            raise RequestError(f"a stop text may have {MAX_STOP_BYTES} bytes of UTF-8 at most", param="stop")
        return Sampling(
            max_tokens=max_tokens,
            temperature=_given(self.temperature, defaults.temperature),
            top_p=_given(self.top_p, defaults.top_p),
            # -1 is vLLM's word for no limit.
            top_k=max(0, _given(self.top_k, defaults.top_k)),
            min_p=_given(self.min_p, defaults.min_p),
            seed=self.seed,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            repetition_penalty=_given(self.repetition_penalty, defaults.repetition_penalty),
            logit_bias=tuple(sorted((self.logit_bias or {}).items())),
            min_tokens=min_tokens,
            stop=tuple(text for text in stop if text),
            include_stop_str_in_output=bool(self.include_stop_str_in_output),
            stop_token_ids=self.stop_token_ids or (),
            ignore_eos=bool(self.ignore_eos),
            logprobs=logprobs,
            grammar=self.grammar,
        )


class CompletionRequest(SharedFields, frozen=True, kw_only=True):
    """POST /v1/completions; the prompt is text or token ids, logprobs the number of alternatives to report.

    With echo the prompt's text comes before the answer's.
    """

    prompt: str | TokenIds
    logprobs: Alternatives | None = None
    echo: bool | None = None

    def sampling(self, max_tokens: int, defaults: SamplingDefaults = PLAIN) -> Sampling:
        """Return the engine's form of the sampling fields; raises RequestError if they contradict each other."""
        if self.echo and self.logprobs is not None:
            raise RequestError(
                "echo with logprobs would need those of the prompt, which are not supported; leave one of them out",
                param="echo",
                code="unsupported_parameter",
            )
        return self.shared_sampling(max_tokens, self.logprobs, defaults)


class ChatRequest(SharedFields, frozen=True, kw_only=True):
    """POST /v1/chat/completions; top_logprobs, the number of alternatives, needs logprobs."""

    messages: Annotated[list[Message], Meta(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: MaxTokens | None = None
    logprobs: bool | None = None
    top_logprobs: Alternatives | None = None
    tools: Annotated[list[Tool], Meta(max_length=128)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None

    @property
    def offered_tools(self) -> list[Tool]:
        """The tools that the model may call."""
        return [] if self.tool_choice == "none" else self.tools or []

    @property
    def forced_functions(self) -> list[Function]:
        """The functions of which one must be called; RequestError for a tool_choice that names none of the tools."""
        return forced_functions(self.tools or [], self.tool_choice)

    @property
    def callable_names(self) -> tuple[str, ...] | None:
        """Names of the functions of which one must be called, () where the model may choose; None without tools."""
        return tuple(function.name for function in self.forced_functions) if self.offered_tools else None

    @property
    def grammar(self) -> Grammar | None:
        """The grammar of the answer: that of a forced call goes before any other."""
        asked = super().grammar
        if not (functions := self.forced_functions):
            return asked
        if asked is not None:
            raise RequestError("a forced tool_choice leaves no room for another form of answer", param="tool_choice")
        return call_grammar(functions)

    def sampling(self, max_tokens: int, defaults: SamplingDefaults = PLAIN) -> Sampling:
        """Return the engine's form of the sampling fields; raises RequestError if they contradict each other."""
        if self.top_logprobs and not self.logprobs:
            raise RequestError("top_logprobs needs logprobs: true", param="top_logprobs")
        return self.shared_sampling(max_tokens, (self.top_logprobs or 0) if self.logprobs else None, defaults)


class TokenizeRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /tokenize: text, or messages that go through the model's chat template.

    add_special_tokens is true for text unless said otherwise; a template writes its special tokens itself.
    """

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Meta(min_length=1, max_length=MAX_MESSAGES)] | None = None
    add_special_tokens: bool | None = None


class DetokenizeRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /detokenize: token ids back to text, special tokens included."""

    model: str | None = None
    tokens: TokenIds


def _given(value: Number | None, otherwise: Number) -> Number:
    return otherwise if value is None else value
