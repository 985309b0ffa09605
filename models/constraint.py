"""One answer's place in its grammar: what may come next, what must, and where it ends. No torch.

Only committed tokens move it. Drafts are tried and taken back, so that a rejection leaves nothing to undo.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from llguidance import LLMatcher

from core.errors import EngineError


@dataclass(frozen=True, slots=True)
class Guided:
    """A draft as its grammar sees it; is_forced says of each token whether nothing else is possible in its place."""

    tokens: list[int]
    is_forced: list[bool]


class Constraint:
    """The state after the tokens committed so far; to be used by one thread at a time.

    matcher     llguidance's own state, for those who compute masks (models/token_masks.py)
    vocab_size  tokens that a mask speaks of
    """

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self.matcher, self.vocab_size = matcher, vocab_size

    @property
    def is_complete(self) -> bool:
        """Tell whether nothing can follow."""
        return self.matcher.is_stopped()

    def advance(self, token_ids: Sequence[int]) -> int:
        """Commit tokens up to the end of the grammar and return how many; raises EngineError for one it forbids."""
        for count, token_id in enumerate(token_ids):
            if self.is_complete:
                self.check()
                return count
            if not self.matcher.consume_token(token_id):
                raise EngineError(f"a token left the grammar: {self.matcher.get_error()}")
        self.check()
        return len(token_ids)

    def check(self) -> None:
        """Raise EngineError if the grammar has failed, which is for ever: it ran into a limit of the library."""
        if self.matcher.is_error():
            raise EngineError(f"the grammar failed: {self.matcher.get_error()}")

    def guide(self, drafted: Sequence[int], limit: int, *, is_certain: bool) -> Guided:
        """Return a draft of at most `limit` tokens with those in it that are forced, and none behind a forbidden one.

        is_certain  the draft is a point mass: it ends before a token that the grammar forbids; any other ends with it,
                    so that whether a token is verified never depends on the token itself (docs/exactness.md)
        A forced token replaces what was drafted in its place, and goes on where the draft ends. What is forced is told
        by the tokens before it alone.
        """
        matcher = self.matcher
        tokens: list[int] = []
        is_forced: list[bool] = []
        forced: list[int] = []
        num_taken = 0
        while len(tokens) < limit and not matcher.is_stopped():
            # Newest last.
            forced = forced or matcher.compute_ff_tokens()[::-1]
            place = len(tokens)
            if not forced and place >= len(drafted):
                break
            token = forced[-1] if forced else drafted[place]
            is_valid = matcher.try_consume_tokens([token]) == 1
            num_taken += is_valid
            if is_valid or not (is_certain or forced):
                tokens.append(token)
                is_forced.append(bool(forced))
            if not is_valid:
                break
            if forced:
                forced.pop()
        if num_taken:
            matcher.rollback(num_taken)
        self.check()
        return Guided(tokens, is_forced)
