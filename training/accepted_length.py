"""Accepted length from finished generations, honestly: per prompt, without the prefill's token, without loops.

Repetition flatters every drafter, most of all n-gram, so a text counts only up to its first repeated 12-gram.
"""

from collections.abc import Sequence

import msgspec
import numpy as np

from core.repetition import loop_start
from core.statistics import Interval, mean_interval
from engine.completion import Completion


class AcceptedLength(msgspec.Struct, frozen=True):
    """What a drafter achieved on one domain.

    mean is tokens per round, the target's own included, averaged over prompts, with its 95% interval; survival[k] is
    the share, of the rounds that verified draft k, that accepted all drafts up to it; before_loops is the share of
    tokens that were counted.
    """

    mean: Interval
    survival: tuple[float, ...]
    num_prompts: int
    num_rounds: int
    before_loops: float


def accepted_length(done: Sequence[Completion]) -> AcceptedLength:
    """Measure completions that were drafted at full length in every round."""
    means, verified, accepted, counted = [], [], [], 0
    for completion in done:
        end = loop_start(completion.token_ids)
        position, rounds = len(completion.rounds[0].token_ids), []
        for emission in completion.rounds[1:]:
            position += len(emission.token_ids)
            if position > end:
                break
            rounds.append(emission)
        counted += sum(len(emission.token_ids) for emission in rounds)
        if rounds:
            means.append(sum(len(emission.token_ids) for emission in rounds) / len(rounds))
            verified += [emission.verified for emission in rounds]
            accepted += [emission.accepted for emission in rounds]
    tried, kept = np.array(verified), np.array(accepted)
    return AcceptedLength(
        mean_interval(np.array(means)),
        tuple(float((kept[tried > k] > k).mean()) for k in range(int(tried.max()))),
        len(means),
        len(tried),
        counted / sum(len(completion.token_ids) for completion in done),
    )
