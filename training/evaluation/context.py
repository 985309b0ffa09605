"""Acceptance by the length of the context, and what of the prompts the prefix cache held."""

from collections.abc import Sequence

import numpy as np

from training.evaluation.acceptance import ratio_interval
from training.evaluation.answering import Answer
from training.evaluation.counted_rounds import CountedRounds
from training.evaluation.report import ContextCell, Share

# Contexts are told apart by powers of two from here on.
SHORTEST_CONTEXT = 128


def by_context(task: str, drafter: str, temperature: float, rounds: CountedRounds, longest: int) -> list[ContextCell]:
    """Sort rounds by the tokens before them; `longest` is the model's limit."""
    cells, low, high = [], 0, SHORTEST_CONTEXT
    while low < longest:
        own = rounds.of((rounds.position >= low) & (rounds.position < high))
        length = ratio_interval(own.prompt, own.tokens, np.ones(len(own)))
        if length is not None:
            cells.append(ContextCell(task, drafter, temperature, low, min(high, longest), len(own), length))
        low, high = high, 2 * high
    return cells


def prefix_hits(answers: Sequence[Answer]) -> tuple[Share, ...]:
    """Return prompt tokens found in the prefix cache, and all of them, by turn."""
    turns = range(max((each.turn for each in answers), default=-1) + 1)
    own = [[each for each in answers if each.turn == turn] for turn in turns]
    return tuple(Share(sum(each.num_cached for each in part), sum(each.prompt_len for each in part)) for part in own)
