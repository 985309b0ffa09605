"""Suffix decoding: propose what most often followed the longest suffix of the text that occurred before.

Source: SuffixDecoding (Oliaro et al., arXiv 2411.04975) and its options in snowflakedb/ArcticInference. It reads only
tokens, so it costs no forward and no KV. A long match speaks for a long continuation: drafts are at most a factor of
the match's length. Proposals are point masses, and how long they are is decided from counts of committed tokens alone.

With `recent_answers`, what finished sequences answered is looked through as well. Then one request's answer changes how
fast another comes (never what it says), which tells whoever measures it something of what others asked: off by default,
and no option for tenants who must not learn of each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from core.tensors import Commit, Draft, DraftAsk
from drafters.base import DrafterSpec
from drafters.point_masses import point_masses
from drafters.recent_answers import LONGEST_MATCH, RecentAnswers
from drafters.suffix_automaton import Continuation, SuffixAutomaton


@dataclass(slots=True, eq=False)
class Text:
    """A sequence's tokens and the automaton over the first num_read of them; `answer` is where its answer begins."""

    tokens: list[int]
    answer: int
    num_read: int = 0
    automaton: SuffixAutomaton = field(default_factory=SuffixAutomaton)

    def append(self, position: int, tokens: list[int]) -> None:
        """Take in tokens from `position` on, known or new ones, and read as far as they reach."""
        num_known = len(self.tokens) - position
        assert num_known >= 0
        self.tokens += tokens[num_known:]
        end = position + len(tokens)
        self.automaton.extend(self.tokens[self.num_read : end])
        self.num_read = max(self.num_read, end)


class Suffix:
    """Looks up the longest suffix in the sequence so far and, where opted in, in recent answers of others.

    max_spec_factor  drafts per matched token, at most
    min_token_prob   a draft ends before its tokens' joint frequency falls below this
    recent_answers   finished answers that are kept, at least (drafters/recent_answers.py); 0 is none
    """

    def __init__(
        self,
        *,
        max_drafts: int = 16,
        max_spec_factor: float = 1.0,
        min_token_prob: float = 0.1,
        recent_answers: int = 0,
    ) -> None:
        self.spec = DrafterSpec(name="suffix", max_drafts=max_drafts, point_mass=True, needs_host_tokens=True)
        self.max_spec_factor, self.min_token_prob = max_spec_factor, min_token_prob
        self._texts: dict[int, Text] = {}
        self._recent = RecentAnswers(recent_answers) if recent_answers else None

    def open(self, slot: int, tokens: Sequence[int], num_cached: int) -> None:  # noqa: ARG002
        """Take the sequence's tokens; they are read as they are committed, so that no step reads a whole prompt."""
        self._texts[slot] = Text(list(tokens), answer=len(tokens))

    def release(self, slot: int) -> None:
        """Forget the sequence; its answer may be kept. One that was preempted has answered so far as well."""
        text = self._texts.pop(slot, None)
        if text and self._recent and len(text.tokens) > text.answer:
            self._recent.add(text.tokens[text.answer :])

    def extend(self, commit: Commit) -> None:
        """Read committed tokens; those known already are passed over."""
        bounds, positions, tokens = commit.cu_rows.tolist(), commit.positions, commit.tokens.tolist()
        for b, slot in enumerate(commit.slots.tolist()):
            first, stop = bounds[b], bounds[b + 1]
            if first < stop:
                self._texts[slot].append(int(positions[first]), tokens[first:stop])

    def propose(self, ask: DraftAsk) -> Draft:
        """Propose the most frequent continuation, with its frequencies as evidence."""
        width, found = self.spec.max_drafts, []
        asked = zip(ask.slots.tolist(), ask.positions.tolist(), ask.anchors.tolist(), ask.lengths.tolist(), strict=True)
        for slot, position, anchor, most in asked:
            text = self._texts[slot]
            text.append(position, [anchor])
            continuation = self._follow(text, min(width, most))
            found.append((continuation.tokens, continuation.odds))
        return point_masses(ask, width, found)

    def _follow(self, text: Text, most: int) -> Continuation:
        """Return the continuation of which more is expected: the text's own, or that of recent answers."""
        state, length = text.automaton.match
        own = text.automaton.follow(state, min(most, int(self.max_spec_factor * length)), self.min_token_prob)
        if self._recent is None:
            return own
        tail = text.tokens[-LONGEST_MATCH:]
        other = self._recent.follow(tail, most, self.max_spec_factor, self.min_token_prob)
        return max(own, other, key=lambda each: each.expected)
