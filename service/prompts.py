"""Text to token ids and back, off the event loop: a long prompt must not hold up other streams."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from core.errors import RequestError
from models.chat import ChatTemplate
from models.tokenizer import Tokenizer
from service.openai import ChatRequest, CompletionRequest, DetokenizeRequest, Message, TokenizeRequest

Result = TypeVar("Result")

# Waiting for a thread included. Templates end themselves sooner (models/chat.py).
PROMPT_S = 10.0


class Prompts:
    """Turns what requests say into the token ids of their prompts."""

    def __init__(self, tokenizer: Tokenizer, threads: ThreadPoolExecutor) -> None:
        self._tokenizer, self._threads = tokenizer, threads
        self._chat = ChatTemplate(tokenizer.chat_template, tokenizer.special_tokens)

    async def ids(self, request: CompletionRequest | ChatRequest) -> list[int]:
        """Return a request's prompt; raises RequestError if the chat template refuses its messages."""
        if isinstance(request, ChatRequest):
            return await self._run(lambda: self._messages(request.messages, add_special_tokens=False))
        prompt = request.prompt
        if isinstance(prompt, str):
            return await self._run(lambda: self._tokenizer.encode(prompt))
        return prompt

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

    def _messages(self, messages: list[Message], *, add_special_tokens: bool) -> list[int]:
        text = self._chat.render([{"role": message.role, "content": message.text} for message in messages])
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
