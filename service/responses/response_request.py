"""What POST /v1/responses may say, and the chat that it stands for."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from core.types import Speculation
from service.answers.response_format import JsonObjectFormat, JsonSchemaFormat, NamedSchema, ResponseFormat, TextFormat
from service.answers.tool_calls import Function, FunctionName, NamedFunction, NamedTool, Tool
from service.openai import MAX_DEADLINE_MS, Called, CalledFunction, ChatRequest, MaxTokens, Message, Stop

# Known fields of OpenAI's that are not built, with the values that ask for nothing (service/http/parse.py).
NOT_BUILT_RESPONSES: dict[str, tuple[object, ...]] = {
    "conversation": (None,),
    "context_management": (None, []),
    "include": (None, []),
    "max_tool_calls": (None,),
    "previous_response_id": (None,),
    "prompt": (None,),
    "reasoning": (None, {}),
    "top_logprobs": (None, 0),
    "truncation": (None, "disabled"),
    # Known and without effect here, whatever they say.
    "prompt_cache_key": (),
    "prompt_cache_retention": (),
    "safety_identifier": (),
    "service_tier": (),
    "stream_options": (),
}


class InputPart(Struct, frozen=True):
    """One text of an item; what an earlier answer said is given back as output_text."""

    type: Literal["input_text", "output_text"]
    text: str


NEEDED: dict[str, tuple[str, ...]] = {
    "message": ("role", "content"),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
}


class InputItem(Struct, frozen=True):
    """One item of the input: a message, a call that an earlier answer made, or what came of it.

    A message has role and content, a function_call has call_id, name and arguments, a function_call_output has call_id
    and output.
    """

    type: Literal["message", "function_call", "function_call_output"] = "message"
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | list[InputPart] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[InputPart] | None = None

    def __post_init__(self) -> None:
        missing = [name for name in NEEDED[self.type] if getattr(self, name) is None]
        if missing:
            raise ValueError(f"a {self.type} needs {' and '.join(missing)}")

    @property
    def message(self) -> Message:
        """The message of a chat that it stands for; chat templates know no developers."""
        if self.type == "function_call":
            call = Called(CalledFunction(self.name or "", self.arguments or ""), self.call_id or "")
            return Message("assistant", tool_calls=[call])
        if self.type == "function_call_output":
            return Message("tool", _text(self.output), tool_call_id=self.call_id)
        return Message("system" if self.role == "developer" else self.role or "", _text(self.content))


class FunctionTool(Struct, frozen=True, forbid_unknown_fields=True):
    """A function the model may call, spelt flat where chats nest it."""

    name: FunctionName
    type: Literal["function"]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @property
    def chat_tool(self) -> Tool:
        """The same as chats spell it."""
        return Tool(Function(self.name, self.description, self.parameters, self.strict))


class ChosenFunction(Struct, frozen=True, forbid_unknown_fields=True):
    """The function that must be called."""

    name: str
    type: Literal["function"]


class SchemaFormat(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="json_schema"):
    """JSON of one schema, spelt flat where chats nest it."""

    name: str
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class ResponseText(Struct, frozen=True, forbid_unknown_fields=True):
    """The form of the answer; verbosity has one value, which asks for nothing."""

    format: TextFormat | JsonObjectFormat | SchemaFormat | None = None
    verbosity: Literal["medium"] | None = None

    @property
    def chat_format(self) -> ResponseFormat | None:
        """The same as chats spell it."""
        asked = self.format
        if isinstance(asked, SchemaFormat):
            return JsonSchemaFormat(NamedSchema(asked.name, asked.schema, asked.description, asked.strict))
        return asked


class ResponseRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/responses; fields that OpenAI's has not are those of /v1/chat/completions.

    In the background, an answer goes on when its client leaves; unless store is false it can be read again later.
    """

    input: str | Annotated[list[InputItem], Meta(min_length=1)]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: MaxTokens | None = None
    text: ResponseText | None = None
    tools: Annotated[list[FunctionTool], Meta(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenFunction | None = None
    parallel_tool_calls: bool | None = None
    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] | None = None
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Stop | None = None
    stream: bool | None = None
    background: bool | None = None
    store: bool | None = None
    metadata: Annotated[dict[Annotated[str, Meta(max_length=64)], str], Meta(max_length=16)] | None = None
    user: str | None = None
    speculation: Speculation | Literal["off"] | bool | None = None
    spec_decode_metrics: Literal["summary", "detailed"] | None = None
    priority: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] | None = None
    deadline_ms: Annotated[int, Meta(ge=1, le=MAX_DEADLINE_MS)] | None = None
    cache_salt: Annotated[str, Meta(min_length=1, max_length=256)] | None = None

    @property
    def is_stored(self) -> bool:
        """Whether the answer can be asked for again."""
        return self.store is not False

    @property
    def chat(self) -> ChatRequest:
        """The chat that is answered: the instructions, then the input."""
        said = [Message("user", self.input)] if isinstance(self.input, str) else _turns(self.input)
        choice = self.tool_choice
        return ChatRequest(
            messages=[Message("system", self.instructions), *said] if self.instructions else said,
            model=self.model,
            max_completion_tokens=self.max_output_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            seed=self.seed,
            stop=self.stop,
            user=self.user,
            speculation=self.speculation,
            priority=self.priority,
            deadline_ms=self.deadline_ms,
            cache_salt=self.cache_salt,
            response_format=self.text.chat_format if self.text else None,
            tools=[tool.chat_tool for tool in self.tools] if self.tools else None,
            tool_choice=NamedTool(NamedFunction(choice.name)) if isinstance(choice, ChosenFunction) else choice,
        )


def _turns(items: Sequence[InputItem]) -> list[Message]:
    """Return the messages of items: calls are part of the assistant's message that they follow."""
    turns: list[Message] = []
    for item in items:
        message = item.message
        if item.type == "function_call" and turns and turns[-1].role == "assistant":
            before = turns.pop()
            calls = [*(before.tool_calls or ()), *(message.tool_calls or ())]
            message = Message("assistant", before.content, tool_calls=calls)
        turns.append(message)
    return turns


def _text(content: str | list[InputPart] | None) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content or ())
