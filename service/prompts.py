"""Text to token ids and back, off the event loop where it is long: a long prompt must not hold up other streams."""

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import msgspec

from core.errors import RequestError
from models.chat import ChatTemplate
from models.tokenizer import Tokenizer
from service.door.grammar_check import GrammarCheck
from service.openai import Called, ChatRequest, CompletionRequest, DetokenizeRequest, Message, TokenizeRequest

Result = TypeVar("Result")

# Waiting for a thread included. Templates end themselves sooner (models/chat.py).
PROMPT_S = 10.0
# Up to so much is done at once: a thread would take longer to wake than to tokenise it.
SHORT_CHARS = 2000
# What a message costs its template, whatever its text.
MESSAGE_CHARS = 50


class Prompts:
    """Turns what requests say into the token ids of their prompts; grammars checks their grammars by its tokenizer."""

    def __init__(self, tokenizer: Tokenizer, threads: ThreadPoolExecutor) -> None:
        self._tokenizer, self._threads, self.grammars = tokenizer, threads, GrammarCheck(tokenizer)
        self._chat = ChatTemplate(tokenizer.chat_template, tokenizer.special_tokens)

    async def ids(self, request: CompletionRequest | ChatRequest) -> list[int]:
        """Return a request's prompt; raises RequestError if the chat template refuses its messages."""
        if isinstance(request, ChatRequest):
            return (
                self._chat_prompt(request) if is_short(request) else await self._run(lambda: self._chat_prompt(request))
            )
        prompt = request.prompt
        if isinstance(prompt, str):
            encode = partial(self._tokenizer.encode, prompt)
            return encode() if len(prompt) <= SHORT_CHARS else await self._run(encode)
        return prompt

    async def text(self, request: CompletionRequest) -> str:
        """Return the text of a completion's prompt; raises RequestError for an id of no token."""
        prompt = request.prompt
        if isinstance(prompt, str):
            return prompt
        self.check_ids("prompt", prompt)
        return await self._run(lambda: self._tokenizer.decode(prompt, skip_special_tokens=False))

    async def tokenize(self, request: TokenizeRequest) -> list[int]:
        """Return the ids of text or messages; raises RequestError unless exactly one of them is given."""
        prompt, messages, special = request.prompt, request.messages, request.add_special_tokens
        if messages is not None and prompt is None:
            return await self._run(lambda: self._messages(messages, add_special_tokens=bool(special)))
        if prompt is not None and messages is None:
            return await self._run(lambda: self._tokenizer.encode(prompt, add_special_tokens=special is not False))
        raise RequestError("exactly one of prompt and messages must be given", param="prompt")

    async def detokenize(self, request: DetokenizeRequest) -> str:
        """Return the text of token ids, special tokens included; raises RequestError for an id of no token."""
        self.check_ids("tokens", request.tokens)
        return await self._run(lambda: self._tokenizer.decode(request.tokens, skip_special_tokens=False))

    def check_ids(self, field: str, token_ids: list[int] | tuple[int, ...]) -> None:
        """Raise RequestError, naming the field, if an id lies outside of the vocabulary."""
        size = self._tokenizer.vocab_size
        for token_id in token_ids:
            if not 0 <= token_id < size:
                raise RequestError(f"{field}: token ids must lie in 0..{size - 1}, got {token_id}", param=field)

    def _chat_prompt(self, request: ChatRequest) -> list[int]:
        tools = request.offered_tools
        if tools and not self._chat.takes_tools:
            if not request.forced_functions:
                raise RequestError(
                    "this model's chat template knows no tools; tool_choice 'required' or a named one forces a call",
                    param="tools",
                )
            # Whoever forces a call without the template's help describes the tools in a message.
            tools = []
        text = self._chat.render(list(map(_for_template, request.messages)), [*map(msgspec.to_builtins, tools)])
        return self._tokenizer.encode(text, add_special_tokens=False)

    def _messages(self, messages: list[Message], *, add_special_tokens: bool) -> list[int]:
        text = self._chat.render(list(map(_for_template, messages)))
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens)

    async def _run(self, work: Callable[[], Result]) -> Result:
        """Run work in the pool; raises RequestError if it takes too long, what has not begun by then is dropped."""
        try:
            async with asyncio.timeout(PROMPT_S):
                return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except TimeoutError:
            raise RequestError(
                f"the prompt could not be tokenised within {PROMPT_S:.0f} s; send less, or try again later",
                status=503,
                code="prompt_timeout",
            ) from None


def is_short(request: ChatRequest) -> bool:
    """Tell whether a chat is made a prompt so soon that no other stream is held up."""
    size = sum(MESSAGE_CHARS + len(message.text) for message in request.messages)
    return size <= SHORT_CHARS and not request.offered_tools and not any(one.tool_calls for one in request.messages)


def _for_template(message: Message) -> dict[str, Any]:
    """Return a message as templates read it: arguments of calls are objects, as in the tokenizers of Hugging Face."""
    told: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.tool_calls:
        told["tool_calls"] = [
            {"id": call.id, "type": call.type, "function": {"name": call.function.name, "arguments": _arguments(call)}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        told["tool_call_id"] = message.tool_call_id
    return told


def _arguments(call: Called) -> object:
    try:
        return json.loads(call.function.arguments)
    except ValueError:
        return call.function.arguments
