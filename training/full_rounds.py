"""Rounds in which every draft was verified, recorded with the real engine: what calibration is fitted and judged on.

Nothing is trimmed, so nothing is censored: every round tells how many of its drafts the target would have kept. Drafts
past an accepted end of text were never asked for, and say nothing (training/evaluation/counted_rounds.py).
"""

import itertools
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from core.errors import ConfigError
from core.planning import F32, I32, StepOutcome
from core.types import Emission, Request, Sampling
from engine.engine import Engine
from policies.fixed import Fixed
from training.evaluation.conversation import Conversation
from training.evaluation.counted_rounds import cut_at_end
from training.evaluation.prompts import Prompts
from training.evaluation.task_files import Reading, read_tasks

# The prompts that specd's benchmarks ask, held out from the demo's training; any pair can answer them.
PROMPTS = Path(__file__).parents[1] / "bench" / "prompts" / "demo.json"
TEMPERATURES = (1.0, 0.7)


class Question(Struct, frozen=True):
    """What to ask and how to answer it. Half of all questions are to be fitted on."""

    conversation: Conversation
    sampling: Sampling
    is_fitted: bool

    @property
    def source(self) -> str:
        """What it is an example of."""
        return self.conversation.task


class RecordedRounds(Struct, frozen=True):
    """N rounds of G verified drafts each.

    question   i64 [N]; index into the questions asked
    evidence   f32 [N, G]
    judged     i32 [N], 1..G; G, but none past an accepted end of text
    accepted   i32 [N], 0..judged
    labels     f32 [N, G]; `StepOutcome.soft_labels`
    """

    question: NDArray[np.int64]
    evidence: F32
    judged: I32
    accepted: I32
    labels: F32

    def of(self, chosen: NDArray[np.bool_]) -> "RecordedRounds":
        """Return some of the rounds, chosen bool [N]."""
        return RecordedRounds(*(getattr(self, name)[chosen] for name in self.__struct_fields__))


class Recording(Fixed):
    """Verify everything and keep the newest outcome."""

    name = "calibrate"

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self.newest: StepOutcome | None = None

    def observe(self, outcome: StepOutcome) -> None:
        """Keep it for `record`."""
        self.newest = outcome


def read_questions(
    paths: Sequence[Path],
    max_tokens: int,
    temperatures: Sequence[float] = TEMPERATURES,
    *,
    skips_bad_lines: bool = False,
) -> list[Question]:
    """Return the prompts of files or folders, by turns of their sources, then of the temperatures, then of the use.

    max_tokens holds for prompts without a limit of their own. Raises ConfigError (training/evaluation/task_files.py).
    """
    found = read_tasks(paths, Reading(skips_bad_lines=skips_bad_lines)).conversations
    sources = list(dict.fromkeys(each.task for each in found))
    columns = [[each for each in found if each.task == source] for source in sources]
    turns = itertools.cycle(itertools.product((True, False), temperatures))
    return [
        Question(each, Sampling(max_tokens=each.max_tokens or max_tokens, temperature=temperature), is_fitted)
        for row, (is_fitted, temperature) in zip(itertools.zip_longest(*columns), turns, strict=False)
        for each in row
        if each is not None
    ]


def record(engine: Engine, drafter: str, questions: Sequence[Question], num_rounds: int) -> RecordedRounds:
    """Answer questions, as many at once as there are slots, until so many rounds were verified in full.

    The last answers are written to their ends. Raises ConfigError if the questions do not last so long.
    """
    assert engine.tokenizer is not None
    prompts = Prompts(engine.tokenizer, engine.max_model_len)
    policy = Recording(engine.memory.speculators[drafter].spec.max_drafts)
    pieces: list[RecordedRounds] = []
    found, waiting = 0, iter(enumerate(questions))
    with engine.scripted(policy, drafter):
        while found < num_rounds or engine.has_work:
            if found < num_rounds:
                _fill(engine, prompts, waiting)
            if not engine.has_work:
                raise ConfigError(
                    f"{len(questions)} prompts gave {found} of {num_rounds} rounds; "
                    "give more with --prompts, or ask for fewer with --rounds"
                )
            emissions = engine.step()
            outcome = policy.newest
            assert outcome is not None
            whole = outcome.verified == policy.length
            # A step without drafts has no evidence, not even as wide as drafts are.
            if whole.any():
                pieces.append(_rounds(emissions, outcome).of(whole))
            found += int(whole.sum())
    return RecordedRounds(
        *(np.concatenate([getattr(each, name) for each in pieces]) for name in RecordedRounds.__struct_fields__)
    )


def _rounds(emissions: Sequence[Emission], outcome: StepOutcome) -> RecordedRounds:
    """Return a step's rounds, one per emission."""
    asked = np.array([int(each.request_id) for each in emissions])
    emitted = np.array([len(each.token_ids) for each in emissions], dtype=np.int32)
    judged, accepted = cut_at_end(outcome.verified, outcome.accepted, emitted)
    return RecordedRounds(asked, outcome.evidence, judged, accepted, outcome.soft_labels)


def _fill(engine: Engine, prompts: Prompts, waiting: Iterator[tuple[int, Question]]) -> None:
    """Give every free slot a question; one that is longer than the model takes is passed over."""
    while engine.num_free_slots and (asked := next(waiting, None)):
        index, question = asked
        prompt = prompts.make(question.conversation, (), question.sampling.max_tokens)
        if prompt is not None:
            sampling = replace(question.sampling, max_tokens=prompt.max_tokens)
            engine.add(Request(str(index), prompt.ids, sampling, secrets.randbits(64)))
