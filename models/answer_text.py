"""An answer's text as its tokens come: detokenised, and ended by the first stop text.

The one place that says at which token a stop text ends an answer: used by `Engine.generate` and by the service's stream
writer. State depends on the tokens alone, so a stream that is taken over is rebuilt by adding what it has shown.
"""

from collections.abc import Iterable

from core.types import Sampling
from models.detokenize import Detokenizer
from models.stop import StopMatcher
from models.tokenizer import Tokenizer


class AnswerText:
    """One answer's text. num_tokens have been added; after is_stopped nothing more belongs to the answer."""

    def __init__(self, tokenizer: Tokenizer, sampling: Sampling) -> None:
        self._detokenizer = Detokenizer(tokenizer)
        self._matcher = StopMatcher(sampling.stop, sampling.include_stop_str_in_output)
        self._has_stops = bool(sampling.stop)
        self._min_tokens = sampling.min_tokens
        self._tail: str | None = None
        self.num_tokens = 0

    @property
    def is_stopped(self) -> bool:
        """Tell whether a stop text has ended the answer."""
        return self._matcher.is_stopped

    def add(self, token_ids: Iterable[int]) -> tuple[str, ...]:
        """Return the text that each token lets out, empty while text is incomplete or may begin a stop.

        There are fewer texts than tokens if a stop is complete: the last one is that of the token that completed it,
        and the tokens after it are no part of the answer. No stop counts before `min_tokens` tokens.
        """
        if not self._has_stops:
            shown = self._detokenizer.pieces(token_ids)
            self.num_tokens += len(shown)
            return shown
        pieces: list[str] = []
        for token_id in token_ids:
            if self.is_stopped:
                break
            (piece,) = self._detokenizer.pieces((token_id,))
            self.num_tokens += 1
            pieces.append(self._matcher.push(piece, may_end=self.num_tokens >= self._min_tokens)[0])
        return tuple(pieces)

    def tail(self) -> str:
        """Return what is still held back when no token will follow; nothing after a stop."""
        if self._tail is None:
            self._tail = self._matcher.push(self._detokenizer.tail())[0] + self._matcher.flush()
        return self._tail
