"""Grammars compiled at the door, so that a wrong one is told to its client and never becomes a job. Loads no torch."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from core.errors import RequestError
from core.grammar import Grammar
from models.grammar import GrammarCompiler
from models.tokenizer import Tokenizer

# Those compiled at once; as llguidance lets others run meanwhile, they do not hold up the event loop.
THREADS = 1
TIMEOUT_S = 1.0


class GrammarCheck:
    """Compiles with the model's tokenizer and keeps nothing but the thread, and what the compiler remembers."""

    def __init__(self, tokenizer: Tokenizer, timeout_s: float = TIMEOUT_S) -> None:
        # Which token ends an answer does not bear on what compiles.
        end = tokenizer.backend.token_to_id(tokenizer.special_tokens.get("eos_token", "")) or 0
        self._compiler = GrammarCompiler(tokenizer, (end,))
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="grammar-check")
        self._timeout_s = timeout_s

    async def check(self, grammar: Grammar) -> None:
        """Raise RequestError for a grammar that is wrong, or takes too long to compile."""
        run = asyncio.get_running_loop().run_in_executor
        await run(self._threads, self._compiler.prepare)
        try:
            async with asyncio.timeout(self._timeout_s):
                await run(self._threads, self._compiler.compile, grammar)
        except TimeoutError:
            raise RequestError(
                f"the grammar takes longer than {self._timeout_s:g} s to compile; make it smaller",
                param="grammar",
                code="grammar_too_complex",
            ) from None
