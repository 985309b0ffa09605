"""`specd eval`: answer tasks with the real engine and every drafter, measure, write it down."""

from collections.abc import Callable, Sequence
from itertools import combinations, zip_longest
from typing import Annotated

import numpy as np
from msgspec import Meta, Struct
from msgspec.structs import replace

from core.errors import ConfigError
from core.planning import Calibration, Policy
from core.types import Sampling
from engine.engine import Engine
from policies.calibration_fit import identity
from policies.fixed import Fixed
from training.evaluation.acceptance import length_difference, measure_acceptance
from training.evaluation.answering import Answer, answer_all
from training.evaluation.confidence import judge_confidence
from training.evaluation.context import by_context, prefix_hits
from training.evaluation.conversation import Conversation
from training.evaluation.counted_rounds import Counted, CountedRounds, counted_rounds, join
from training.evaluation.long_context import lengthen
from training.evaluation.prompts import Prompts
from training.evaluation.report import (
    ALL,
    CALIBRATED,
    RAW,
    Cell,
    ContextCell,
    Difference,
    Share,
    SweepPoint,
)
from training.evaluation.speed import Speed, measure_speed
from training.evaluation.threshold import ThresholdAlone


class Options(Struct, frozen=True):
    """What to do beside answering all of it with every drafter.

    max_tokens   most tokens of an answer whose task sets no limit
    thresholds   of the sweep, 0 not among them; () for none
    contexts     lengths of prompts to make by putting earlier questions and answers before; () for none
    speed        prompts per task to time; 0 for none
    """

    temperatures: Annotated[tuple[Annotated[float, Meta(ge=0.0, le=2.0)], ...], Meta(min_length=1)] = (1.0, 0.0)
    max_tokens: Annotated[int, Meta(ge=1, le=131072)] = 2048
    thresholds: tuple[Annotated[float, Meta(gt=0.0, lt=1.0)], ...] = ()
    contexts: tuple[Annotated[int, Meta(ge=1)], ...] = ()
    speed: Annotated[int, Meta(ge=0)] = 0
    policy: str = "load_adaptive"


class Answered(Struct, frozen=True):
    """What one drafter did at one temperature: all answers, and the rounds of them that count."""

    answers: tuple[Answer, ...]
    rounds: CountedRounds


class Evaluation:
    """An engine with its drafters, what they are asked, and all that was measured so far; mutable.

    progress is called with a line about every stage.
    """

    def __init__(
        self,
        engine: Engine,
        drafters: Sequence[str],
        conversations: Sequence[Conversation],
        options: Options,
        progress: Callable[[str], None],
    ) -> None:
        self.engine, self.drafters, self.conversations, self.options = engine, drafters, conversations, options
        self.tasks = list(dict.fromkeys(each.task for each in conversations))
        if ALL in self.tasks:
            raise ConfigError(f"a task may not be called {ALL!r}: so are the rows of all tasks together")
        self.columns = [*self.tasks, ALL] if len(self.tasks) > 1 else self.tasks
        self._task_of = np.array([self.tasks.index(each.task) for each in conversations])
        self._progress = progress
        self.answered: dict[tuple[str, float], Answered] = {}
        self.too_long: dict[str, None] = {}
        self.cells: list[Cell] = []
        self.contexts: list[ContextCell] = []
        self.sweep: list[SweepPoint] = []
        self.speed: list[Speed] = []

    def answer(self) -> None:
        """Answer everything with every drafter at every temperature, every draft verified."""
        for temperature in self.options.temperatures:
            for drafter in self.drafters:
                self._progress(f"{drafter}, temperature {temperature:g}: {len(self.conversations)} conversations")
                answers = self._answers(drafter, Fixed(self.width(drafter)), self.conversations, temperature)
                counted = self._counted(drafter, answers, temperature)
                self.answered[drafter, temperature] = Answered(answers, counted.rounds)
                self.cells += [self._cell(drafter, temperature, answers, task) for task in self.columns]

    def vary_threshold(self) -> None:
        """Answer everything again at each threshold of confidence; 0 is what is there already."""
        for drafter, temperature in self.answered:
            points = [(0.0, self.answered[drafter, temperature].rounds)] if self.options.thresholds else []
            for threshold in self.options.thresholds:
                self._progress(f"{drafter}, temperature {temperature:g}: threshold {threshold:g}")
                policy = ThresholdAlone(threshold, self.calibration(drafter) or identity(self.width(drafter)))
                answers = self._answers(drafter, policy, self.conversations, temperature)
                points.append((threshold, self._counted(drafter, answers, temperature).rounds))
            for threshold, rounds in points:
                for task in self.columns:
                    found = measure_acceptance(self.of_task(rounds, task))
                    if found.length is not None and found.verified is not None and found.share is not None:
                        self.sweep.append(
                            SweepPoint(task, drafter, temperature, threshold, found.length, found.verified, found.share)
                        )

    def vary_context(self) -> None:
        """Answer with ever longer prompts, then sort all rounds by their context."""
        assert self.engine.tokenizer is not None
        prompts = Prompts(self.engine.tokenizer, self.engine.max_model_len)
        for (drafter, temperature), answered in self.answered.items():
            # Every drafter gets the same prompts: the answers before the question are the first one's.
            first = self.answered[self.drafters[0], temperature].answers
            texts = {each.conversation: each.text for each in first if each.turn == 0}
            parts = {task: [self.of_task(answered.rounds, task)] for task in self.columns}
            for number, length in enumerate(self.options.contexts, 1):
                self._progress(f"{drafter}, temperature {temperature:g}: prompts of {length} tokens")
                longer = lengthen(prompts, self.conversations, texts, length)
                answers = self._answers(drafter, Fixed(self.width(drafter)), longer, temperature)
                for task, part in parts.items():
                    mine = [each for each in answers if task in (ALL, longer[each.conversation].task)]
                    rounds = self._counted(drafter, mine, temperature).rounds
                    # Of each length its own prompts: what they share with shorter ones is a small part of them.
                    shift = np.int32(number * len(self.conversations))
                    part.append(replace(rounds, prompt=rounds.prompt + shift))
            for task, part in parts.items():
                self.contexts += by_context(task, drafter, temperature, join(part), self.engine.max_model_len)

    def time(self) -> None:
        """Measure speed on the first prompts of every task."""
        by_task = [[each for each in self.conversations if each.task == task] for task in self.tasks]
        # By turns of the tasks, so that a change of the machine's load hits none alone.
        turns = zip_longest(*(each[: self.options.speed] for each in by_task))
        chosen = [each for turn in turns for each in turn if each is not None]
        for temperature in self.options.temperatures:
            self._progress(f"speed at temperature {temperature:g}: {len(chosen)} prompts, {self.options.policy}")
            sampling = Sampling(max_tokens=self.options.max_tokens, temperature=temperature)
            self.speed += measure_speed(self.engine, self.drafters, self.options.policy, chosen, sampling)

    def differences(self) -> tuple[Difference, ...]:
        """Compare accepted lengths of every pair of drafters on the same prompts."""
        found = []
        for temperature in self.options.temperatures:
            for one, other in combinations(self.drafters, 2):
                left, right = (self.answered[name, temperature].rounds for name in (one, other))
                for task in self.columns:
                    length = length_difference(self.of_task(left, task), self.of_task(right, task))
                    if length is not None:
                        found.append(Difference(task, one, other, temperature, length))
        return tuple(found)

    def of_task(self, rounds: CountedRounds, task: str) -> CountedRounds:
        """Return the rounds of one task, or all of them."""
        if task == ALL or not len(rounds):
            return rounds
        return rounds.of(self._task_of[rounds.prompt] == self.tasks.index(task))

    def width(self, drafter: str) -> int:
        """Return how many drafts one proposal of a drafter holds."""
        return self.engine.memory.speculators[drafter].spec.max_drafts

    def calibration(self, drafter: str) -> Calibration | None:
        """Return the map beside a drafter's checkpoint; None if there is none."""
        return self.engine.memory.speculators[drafter].spec.calibration

    def _answers(
        self, drafter: str, policy: Policy, conversations: Sequence[Conversation], temperature: float
    ) -> tuple[Answer, ...]:
        sampling = Sampling(max_tokens=self.options.max_tokens, temperature=temperature)
        found = answer_all(self.engine, drafter, policy, conversations, sampling)
        self.too_long |= dict.fromkeys(found.too_long)
        return found.answers

    def _counted(self, drafter: str, answers: Sequence[Answer], temperature: float) -> Counted:
        return counted_rounds(answers, self.width(drafter), is_greedy=temperature == 0.0)

    def _cell(self, drafter: str, temperature: float, answers: Sequence[Answer], task: str) -> Cell:
        own = [each for each in answers if task in (ALL, self.conversations[each.conversation].task)]
        counted = self._counted(drafter, own, temperature)
        maps = {RAW: identity(self.width(drafter)), CALIBRATED: self.calibration(drafter)}
        judged = {name: judge_confidence(counted.rounds, each) for name, each in maps.items() if each is not None}
        return Cell(
            task,
            drafter,
            temperature,
            len(own),
            counted.share,
            measure_acceptance(counted.rounds),
            {name: each for name, each in judged.items() if each is not None},
            {} if task == ALL else self._right(own),
            prefix_hits(own),
        )

    def _right(self, answers: Sequence[Answer]) -> dict[str, Share]:
        found: dict[str, list[bool]] = {}
        for answer in answers:
            conversation = self.conversations[answer.conversation]
            if conversation.is_right is not None and answer.turn == conversation.num_turns - 1:
                found.setdefault(conversation.kind, []).append(conversation.is_right(answer.text))
        return {kind: Share(sum(each), len(each)) for kind, each in sorted(found.items())}
