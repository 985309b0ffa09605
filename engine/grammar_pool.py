"""Grammars compiled beside the steps: a request waits for its own, and no other waits for it."""

import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from core.errors import EngineError, RequestError
from core.types import Emission, FinishReason
from engine.sequence import Sequence
from models.constraint import Constraint
from models.grammar import GrammarCompiler

COMPILE_THREADS = 2
COMPILE_TIMEOUT_S = 1.0
# How long an engine without other work waits for a grammar before it looks around again.
IDLE_S = 0.01


@dataclass(slots=True, eq=False)
class _Compiling:
    """A sequence whose grammar is being compiled; started_s is set, in the pool, when its turn has come."""

    sequence: Sequence
    started_s: float | None = None
    done: Future[Constraint] = field(default_factory=Future)


class GrammarPool:
    """Owns the threads that compile; compiler None takes no grammars.

    timeout_s bounds each compilation: one that takes longer is given up, and ends by itself at the library's limits.
    """

    def __init__(self, compiler: GrammarCompiler | None, timeout_s: float = COMPILE_TIMEOUT_S) -> None:
        self._compiler, self.timeout_s = compiler, timeout_s
        self._pool: ThreadPoolExecutor | None = None
        self._compiling: list[_Compiling] = []

    @property
    def waiting(self) -> list[Sequence]:
        """The sequences whose grammars are being compiled, first come first."""
        return [one.sequence for one in self._compiling]

    def begin(self, sequence: Sequence) -> None:
        """Have a sequence's grammar compiled, up to the tokens it already has; raises RequestError without a compiler.

        `collect` hands the sequence back.
        """
        if self._compiler is None:
            raise RequestError("this engine has no tokenizer or no end of text; it takes no grammar", param="grammar")
        self._pool = self._pool or ThreadPoolExecutor(COMPILE_THREADS, thread_name_prefix="grammar")
        one = _Compiling(sequence)
        one.done = self._pool.submit(_compile, self._compiler, one)
        self._compiling.append(one)

    def drop(self, request_id: str) -> None:
        """Forget a request that waits for its grammar; an unknown one is nothing to do."""
        for one in self._compiling:
            if one.sequence.request.id == request_id:
                one.done.cancel()
        self._compiling = [one for one in self._compiling if one.sequence.request.id != request_id]

    def collect(self, *, is_idle: bool) -> tuple[list[Sequence], list[Emission]]:
        """Return the sequences that may run now, and the ends of those that never will.

        is_idle  there is nothing else to do: wait a moment for the first to be ready
        """
        if is_idle and self._compiling:
            wait([one.done for one in self._compiling], IDLE_S, return_when=FIRST_COMPLETED)
        ready: list[Sequence] = []
        ended: list[Emission] = []
        left: list[_Compiling] = []
        for one in self._compiling:
            if one.done.done():
                if (error := one.done.exception()) is None:
                    one.sequence.constraint = one.done.result()
                    ready.append(one.sequence)
                else:
                    ended.append(_end(one.sequence, str(error)))
            elif one.started_s is not None and time.monotonic() - one.started_s > self.timeout_s:
                ended.append(_end(one.sequence, f"the grammar took longer than {self.timeout_s:g} s to compile"))
            else:
                left.append(one)
        self._compiling = left
        return ready, ended


def _end(sequence: Sequence, error: str) -> Emission:
    return Emission(sequence.request.id, (), 0, 0, 0, FinishReason.ERROR, error)


def _compile(compiler: GrammarCompiler, one: _Compiling) -> Constraint:
    """Compile a sequence's grammar and lead it through the tokens that earlier attempts have streamed."""
    grammar = one.sequence.request.sampling.grammar
    assert grammar is not None
    compiler.prepare()
    one.started_s = time.monotonic()
    constraint = compiler.compile(grammar)
    output_ids = one.sequence.request.output_ids
    if constraint.advance(output_ids) < len(output_ids):
        raise EngineError("the tokens streamed so far go on behind the end of the grammar")
    return constraint
