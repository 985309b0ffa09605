"""Which rounds of an answer count, and how many of their drafts were judged.

- The token of the prefill is no round (`answering.Rounds` has none).
- A round counts if there was room for all G drafts; near a length limit there is less, whatever the drafter.
- Greedy answers count up to their first repeated 12-gram: what follows flatters every drafter. Others count whole.
- A round that an accepted end of text has cut is judged up to it: what was accepted past it was never asked for.
"""

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from core.planning import F32, I32
from core.repetition import loop_start
from training.evaluation.answering import Answer


class CountedRounds(Struct, frozen=True):
    """N rounds of some answers, at most G drafts each.

    prompt     i32 [N]; the conversation it belongs to: rounds of one are alike, so it is the unit of intervals
    position   i32 [N]; tokens before the round
    drafted    i32 [N]; drafts proposed
    judged     i32 [N]; drafts sent to the target whose fate is known: all verified ones, but none past an end of text
    accepted   i32 [N]; the first so many of them were kept
    verified   i32 [N]; drafts sent to the target
    tokens     i32 [N]; what the round gave, the target's own token included
    evidence   f32 [N, G]
    """

    prompt: I32
    position: I32
    drafted: I32
    judged: I32
    accepted: I32
    verified: I32
    tokens: I32
    evidence: F32

    @property
    def width(self) -> int:
        """G."""
        return self.evidence.shape[1]

    def __len__(self) -> int:
        return len(self.tokens)

    def of(self, chosen: np.ndarray) -> "CountedRounds":
        """Return some of the rounds, bool [N] or places."""
        return CountedRounds(*(getattr(self, name)[chosen] for name in self.__struct_fields__))


class Counted(Struct, frozen=True):
    """Rounds that count, and what share of all tokens after the prefill's they gave."""

    rounds: CountedRounds
    share: float


def counted_rounds(answers: Sequence[Answer], width: int, *, is_greedy: bool) -> Counted:
    """Return the rounds of answers that count."""
    rounds = join([_nothing(width), *(_of_answer(answer, width, is_greedy=is_greedy) for answer in answers)])
    total = sum(int(answer.rounds.emitted.sum()) for answer in answers)
    return Counted(rounds, float(rounds.tokens.sum()) / total if total else 0.0)


def cut_at_end(verified: I32, accepted: I32, emitted: I32) -> tuple[I32, I32]:
    """Return of rounds [N] how many drafts are judged, and how many of these were kept: none past an accepted end."""
    # A whole round gives its accepted drafts and one token of the target's.
    is_cut = emitted <= accepted
    return np.where(is_cut, emitted, verified), np.minimum(accepted, emitted)


def join(parts: Sequence[CountedRounds]) -> CountedRounds:
    """Return the rounds of all parts, of which there must be one."""
    return CountedRounds(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in CountedRounds.__struct_fields__)
    )


def _of_answer(answer: Answer, width: int, *, is_greedy: bool) -> CountedRounds:
    rounds = answer.rounds
    counts = rounds.asked >= width
    if is_greedy:
        end = answer.prompt_len + loop_start(answer.token_ids)
        counts &= rounds.position + rounds.emitted <= end
    judged, accepted = cut_at_end(rounds.verified, rounds.accepted, rounds.emitted)
    found = CountedRounds(
        np.full(len(counts), answer.conversation, dtype=np.int32),
        rounds.position,
        rounds.drafted,
        judged,
        accepted,
        rounds.verified,
        rounds.emitted,
        rounds.evidence,
    )
    return found.of(counts)


def _nothing(width: int) -> CountedRounds:
    none = np.zeros(0, dtype=np.int32)
    return CountedRounds(none, none, none, none, none, none, none, np.zeros((0, width), dtype=np.float32))
