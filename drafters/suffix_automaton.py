"""A suffix automaton that grows token by token: the longest suffix seen before, and what followed it how often.

Each state stands for all substrings that end at the same places of the text; `link` leads to the longest suffix that
ends at more of them. After each token the state of the whole text links to its longest suffix that occurred before, so
a match costs no search. Appending is amortised O(1): Blumer et al. 1985, "The smallest automaton recognizing the
subwords of a text". Occurrences are counted along the links from the new state up, and a walk ends at the first state
whose count is full: all above it are full as well, so no state is ever counted up more than MOST_COUNTED times.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

# Occurrences beyond this are not told apart. Odds of 255 to 1 are as sure as a draft can be.
MOST_COUNTED = 255
ROOT = 0


class Continuation(NamedTuple):
    """What may follow a match.

    odds      per token the log-odds, by Laplace's rule, that it follows given those before it
    expected  sum over the tokens of the frequency of the whole path up to each: how many should be right
    """

    tokens: list[int]
    odds: list[float]
    expected: float


NOTHING = Continuation([], [], 0.0)


class SuffixAutomaton:
    """All substrings of one text, or of several put in one after the other; about 350 bytes per state.

    A text of n tokens has fewer than 2 n states.
    """

    def __init__(self, most_counted: int = MOST_COUNTED) -> None:
        self._most_counted = most_counted
        # By state: token -> next state; suffix link; length of the longest substring; occurrences.
        self._next: list[dict[int, int]] = [{}]
        self._link, self._length, self._count = [-1], [0], [0]
        self._last = ROOT

    @property
    def num_states(self) -> int:
        """States so far, the root included."""
        return len(self._link)

    @property
    def match(self) -> tuple[int, int]:
        """The state of the longest proper suffix of the text that occurs earlier in it, and that suffix's length."""
        state = max(self._link[self._last], ROOT)
        return state, self._length[state]

    def begin_text(self) -> None:
        """Let the next token begin another text."""
        self._last = ROOT

    def extend(self, tokens: Iterable[int]) -> None:
        """Append tokens to the current text."""
        for token in tokens:
            self._last = last = self._append(token)
            self._count_up(last)

    def find(self, tokens: Iterable[int]) -> tuple[int, int]:
        """Return the state of the longest suffix of `tokens` that occurs anywhere, and that suffix's length."""
        state, length = ROOT, 0
        for token in tokens:
            while state and token not in self._next[state]:
                state = self._link[state]
                length = self._length[state]
            if token in self._next[state]:
                state, length = self._next[state][token], length + 1
        return state, length

    def follow(self, state: int, limit: int, min_probability: float = 0.0) -> Continuation:
        """Return the most frequent continuation of a matched state, at most `limit` tokens.

        It ends before the path's frequency, the product of its tokens', falls below min_probability. Where a text ends,
        it goes on from the longest suffix that was followed by anything; of equals, the last to appear first is taken.
        """
        tokens: list[int] = []
        odds: list[float] = []
        path, expected = 1.0, 0.0
        while len(tokens) < limit:
            while state and not self._next[state]:
                state = self._link[state]
            if state == ROOT:
                break
            token, after, best, total = self._most_frequent(state)
            path *= best / total
            if path < min_probability:
                break
            tokens.append(token)
            odds.append(math.log((best + 1) / (total - best + 1)))
            expected += path
            state = after
        return Continuation(tokens, odds, expected)

    def _most_frequent(self, state: int) -> tuple[int, int, int, int]:
        """Return what followed a state most often, the state after it, how often, and how often anything did."""
        count, best, total, token, after = self._count, 0, 0, -1, ROOT
        for each, reached in self._next[state].items():
            times = count[reached]
            total += times
            if times >= best:
                token, after, best = each, reached, times
        return token, after, best, total

    def _append(self, token: int) -> int:
        """Return the state of the current text with `token` after it."""
        following, link, length, last = self._next, self._link, self._length, self._last
        if token in following[last]:
            # Only where an earlier text has the same beginning.
            return self._exactly(last, token)
        state = self._add({}, ROOT, length[last] + 1, 0)
        while last >= 0 and token not in following[last]:
            following[last][token] = state
            last = link[last]
        if last >= 0:
            link[state] = self._exactly(last, token)
        return state

    def _exactly(self, state: int, token: int) -> int:
        """Return the state whose longest substring is that of `state` plus `token`, split off if need be."""
        following, link, length = self._next, self._link, self._length
        reached = following[state][token]
        if length[reached] == length[state] + 1:
            return reached
        split = self._add(following[reached].copy(), link[reached], length[state] + 1, self._count[reached])
        link[reached] = split
        while state >= 0 and following[state].get(token) == reached:
            following[state][token] = split
            state = link[state]
        return split

    def _add(self, following: dict[int, int], link: int, length: int, count: int) -> int:
        self._next.append(following)
        self._link.append(link)
        self._length.append(length)
        self._count.append(count)
        return len(self._link) - 1

    def _count_up(self, state: int) -> None:
        link, count, full = self._link, self._count, self._most_counted
        while state > ROOT and count[state] < full:
            count[state] += 1
            state = link[state]
