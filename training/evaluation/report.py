"""What an evaluation finds, as it is written to JSON."""

from typing import Any

from msgspec import Struct, field

from core.statistics import Interval
from training.evaluation.acceptance import Acceptance
from training.evaluation.confidence import Judged
from training.evaluation.speed import Speed

# The rows of all tasks together, their rounds pooled.
ALL = "all"
RAW, CALIBRATED = "raw", "calibrated"


class Share(Struct, frozen=True):
    """How many of how many."""

    part: int
    whole: int


class Cell(Struct, frozen=True):
    """One drafter on one task at one temperature, every draft verified.

    counted      share of the tokens after the prefill's that count: greedy answers end at their first repetition
    confidence   by calibration: "raw" is the evidence as it comes, "calibrated" by the map beside the checkpoint
    right        right answers by kind of task, "" where there is only one
    prefix_hits  prompt tokens found in the prefix cache, by turn of the conversation
    """

    task: str
    drafter: str
    temperature: float
    num_answers: int
    counted: float
    acceptance: Acceptance
    confidence: dict[str, Judged]
    right: dict[str, Share]
    prefix_hits: tuple[Share, ...]


class Difference(Struct, frozen=True):
    """Accepted length of `drafter` less that of `other` on the same prompts."""

    task: str
    drafter: str
    other: str
    temperature: float
    length: Interval


class ContextCell(Struct, frozen=True):
    """Rounds that began with low..high - 1 tokens of context."""

    task: str
    drafter: str
    temperature: float
    low: int
    high: int
    num_rounds: int
    length: Interval


class SweepPoint(Struct, frozen=True):
    """One threshold of confidence: accepted length, drafts verified per round, share of verified tokens kept."""

    task: str
    drafter: str
    temperature: float
    threshold: float
    length: Interval
    verified: float
    share: float


class Report(Struct, frozen=True):
    """Everything.

    run        machine, versions, command, time
    left_out   sentences about what was not asked, by reason
    """

    run: dict[str, Any]
    target: str
    dtype: str
    max_model_len: int
    drafters: dict[str, str]
    max_drafts: dict[str, int]
    left_out: dict[str, tuple[str, ...]] = field(default_factory=dict)
    cells: tuple[Cell, ...] = ()
    differences: tuple[Difference, ...] = ()
    contexts: tuple[ContextCell, ...] = ()
    sweep: tuple[SweepPoint, ...] = ()
    speed: tuple[Speed, ...] = ()
