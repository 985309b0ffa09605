"""The answers of finished sequences, to draft others from: a bounded number of them, the oldest forgotten first.

Two automata take turns. One takes answers in until it has its share; then it only answers, and the other, emptied,
takes over. Nothing is ever taken out of an automaton or built anew, so no step waits for it.
"""

from collections.abc import Sequence

from drafters.suffix_automaton import NOTHING, Continuation, SuffixAutomaton

# More of a text's end than this is not looked for, and so is the longest match.
LONGEST_MATCH = 64
# Tokens after which an automaton is full, however few answers they are: some 30 MB.
MOST_TOKENS = 65536


class RecentAnswers:
    """Keeps at least the last `num_answers`, fewer if they are very long, and never more than twice as many."""

    def __init__(self, num_answers: int, most_tokens: int = MOST_TOKENS) -> None:
        self._num_answers, self._most_tokens = num_answers, most_tokens
        self._full = SuffixAutomaton()
        self._renew()

    def add(self, tokens: Sequence[int]) -> None:
        """Take a finished answer in; of one that is too long, its beginning."""
        if self._num_taken >= self._num_answers or self._num_tokens >= self._most_tokens:
            self._full = self._filling
            self._renew()
        tokens = tokens[: self._most_tokens]
        self._filling.begin_text()
        self._filling.extend(tokens)
        self._num_taken += 1
        self._num_tokens += len(tokens)

    def follow(self, tail: Sequence[int], most: int, factor: float, min_probability: float) -> Continuation:
        """Return what followed the longest suffix of `tail` in answers, at most `most` and factor * its length."""
        best = NOTHING
        for automaton in (self._filling, self._full):
            state, length = automaton.find(tail[-LONGEST_MATCH:])
            found = automaton.follow(state, min(most, int(factor * length)), min_probability)
            best = max(best, found, key=lambda each: each.expected)
        return best

    def _renew(self) -> None:
        self._filling, self._num_taken, self._num_tokens = SuffixAutomaton(), 0, 0
