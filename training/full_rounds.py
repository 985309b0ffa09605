"""Rounds in which every draft was verified, recorded with the real engine: what calibration is fitted and judged on.

Nothing is trimmed, so nothing is censored: every round tells how many of its drafts the target would have kept.
"""

import itertools
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from core.errors import ConfigError
from core.types import F32, I32, Request, Sampling, StepOutcome
from engine.engine import Engine
from policies.fixed import Fixed

# The prompts that specd's benchmarks ask, held out from the demo's training; any pair can answer them.
PROMPTS = Path(__file__).parents[1] / "bench" / "prompts" / "demo.json"
TEMPERATURES = (1.0, 0.7)


class Question(Struct, frozen=True):
    """A prompt, where it comes from, and how to answer it. Half of all questions are to be fitted on."""

    source: str
    text: str
    sampling: Sampling
    is_fitted: bool


class Prompts(Struct, frozen=True):
    """Prompts of one source, and how long an answer to them may be."""

    max_tokens: Annotated[int, Meta(ge=1)]
    prompts: Annotated[tuple[str, ...], Meta(min_length=1)]


class RecordedRounds(Struct, frozen=True):
    """N rounds of G verified drafts each.

    question   i64 [N]; index into the questions asked
    evidence   f32 [N, G]
    accepted   i32 [N], 0..G; by the verdict, before any cut at a stop
    labels     f32 [N, G]; `StepOutcome.soft_labels`
    """

    question: NDArray[np.int64]
    evidence: F32
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


def read_questions(path: Path, temperatures: Sequence[float] = TEMPERATURES) -> list[Question]:
    """Return the prompts of a file, by turns of its sources, then of the temperatures, then fitted or judged.

    The file holds {source: {"max_tokens": int, "prompts": [text]}}. Raises ConfigError.
    """
    try:
        sources = msgspec.json.decode(path.read_bytes(), type=dict[str, Prompts])
    except (OSError, UnicodeDecodeError, msgspec.DecodeError) as error:
        raise ConfigError(
            f'{path} must hold prompts as {{"source": {{"max_tokens": 100, "prompts": ["..."]}}}}: {error}'
        ) from error
    columns = [[(name, text, each.max_tokens) for text in each.prompts] for name, each in sources.items()]
    turn = itertools.product((True, False), temperatures, range(len(columns)))
    turns = itertools.cycle([(is_fitted, temperature) for is_fitted, temperature, _ in turn])
    prompts = (prompt for row in zip(*columns, strict=False) for prompt in row)
    return [
        Question(source, text, Sampling(max_tokens=max_tokens, temperature=temperature), is_fitted)
        for (source, text, max_tokens), (is_fitted, temperature) in zip(prompts, turns, strict=False)
    ]


def record(engine: Engine, drafter: str, questions: Sequence[Question], num_rounds: int) -> RecordedRounds:
    """Answer questions, as many at once as there are slots, until so many rounds were verified in full.

    The last answers are written to their ends. Raises ConfigError if the questions do not last so long.
    """
    policy = Recording(engine.memory.speculators[drafter].spec.max_drafts)
    pieces: list[tuple[NDArray[np.int64], StepOutcome, NDArray[np.bool_]]] = []
    found, waiting = 0, iter(enumerate(questions))
    with engine.scripted(policy, drafter):
        while found < num_rounds or engine.has_work:
            if found < num_rounds:
                _fill(engine, waiting)
            if not engine.has_work:
                raise ConfigError(
                    f"{len(questions)} prompts gave {found} of {num_rounds} rounds; give more with --prompts"
                )
            emissions = engine.step()
            outcome = policy.newest
            assert outcome is not None
            whole = outcome.verified == policy.length
            # A step without drafts has no evidence, not even as wide as drafts are.
            if whole.any():
                pieces.append((np.array([int(each.request_id) for each in emissions]), outcome, whole))
            found += int(whole.sum())
    return RecordedRounds(
        np.concatenate([asked[whole] for asked, _, whole in pieces]),
        np.concatenate([outcome.evidence[whole] for _, outcome, whole in pieces]),
        np.concatenate([outcome.accepted[whole] for _, outcome, whole in pieces]),
        np.concatenate([outcome.soft_labels[whole] for _, outcome, whole in pieces]),
    )


def _fill(engine: Engine, waiting: Iterator[tuple[int, Question]]) -> None:
    """Give every free slot a question."""
    assert engine.tokenizer is not None
    for index, question in itertools.islice(waiting, engine.num_free_slots):
        prompt = tuple(engine.tokenizer.encode(question.text))
        engine.add(Request(str(index), prompt, question.sampling, secrets.randbits(64)))
