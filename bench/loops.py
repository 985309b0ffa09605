"""Tell, while an answer arrives, where it begins to repeat itself (core/repetition.py says why that matters)."""

from collections.abc import Sequence

from core.repetition import LOOP_LEN


class LoopWatch:
    """The tokens of one answer so far. Agrees with `loop_start` of the whole answer, in constant time per token."""

    def __init__(self) -> None:
        self.num_tokens = 0
        self._recent: tuple[int, ...] = ()
        self._seen: set[tuple[int, ...]] = set()

    def add(self, token_ids: Sequence[int]) -> int | None:
        """Take more tokens in; return where the answer's first repeated 12-gram begins, None while there is none."""
        for token in token_ids:
            self.num_tokens += 1
            self._recent = (*self._recent[1 - LOOP_LEN :], token)
            if len(self._recent) < LOOP_LEN:
                continue
            if self._recent in self._seen:
                return self.num_tokens - LOOP_LEN
            self._seen.add(self._recent)
        return None
