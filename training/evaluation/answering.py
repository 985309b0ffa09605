"""Answer conversations with the real engine under one policy, and keep every round of every answer.

Many conversations run at once; the turns of one follow each other, so a later turn finds the earlier ones' prefix in
the engine's cache, as it does in service.
"""

import secrets
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from core.errors import ConfigError, EngineError
from core.planning import F32, I32, Plan, Policy, StepOutcome, StepView
from core.types import Emission, FinishReason, Request, Sampling
from engine.engine import Engine
from training.evaluation.conversation import Conversation
from training.evaluation.prompts import Prompt, Prompts

Progress = Callable[[], None]


class Rounds(Struct, frozen=True):
    """The rounds of one answer in order, the prefill's token left out; N rounds of at most G drafts.

    position   i32 [N]; tokens before the round, prompt and answer
    asked      i32 [N]; drafts that there was room for; the drafter's G in a whole round
    drafted, verified, accepted   i32 [N]; accepted by the verdict, before any cut
    emitted    i32 [N]; tokens that left the engine
    evidence   f32 [N, G]; logits of conditional acceptance, as the drafter gave them
    """

    position: I32
    asked: I32
    drafted: I32
    verified: I32
    accepted: I32
    emitted: I32
    evidence: F32


class Answer(Struct, frozen=True):
    """One answer: to which conversation and turn, what it cost and what came."""

    conversation: int
    turn: int
    prompt_len: int
    num_cached: int
    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason | None
    rounds: Rounds


class Recorder:
    """A policy that does as another one and keeps the newest plan's room and outcome."""

    name = "evaluate"

    def __init__(self, policy: Policy, num_slots: int) -> None:
        self._policy = policy
        self.room = np.zeros(num_slots, dtype=np.int32)
        self.newest: StepOutcome | None = None

    def plan(self, view: StepView) -> Plan:
        """Plan as the other one."""
        self.room[view.slots] = view.gamma_max
        return self._policy.plan(view)

    def observe(self, outcome: StepOutcome) -> None:
        """Keep the outcome, and let the other one learn."""
        self.newest = outcome
        self._policy.observe(outcome)


@dataclass(slots=True)
class _Open:
    """An answer being written."""

    conversation: int
    turn: int
    prompt: Prompt
    token_ids: list[int] = field(default_factory=list)
    # (emission, drafts there was room for, evidence) of every round but the first.
    rounds: list[tuple[Emission, int, NDArray[np.float32]]] = field(default_factory=list)
    num_cached: int = 0


class Answers(Struct, frozen=True):
    """All answers of a run, and the places whose prompts were longer than the model takes."""

    answers: tuple[Answer, ...]
    too_long: tuple[str, ...]


def answer_all(
    engine: Engine,
    drafter: str,
    policy: Policy,
    conversations: Sequence[Conversation],
    sampling: Sampling,
    progress: Progress | None = None,
) -> Answers:
    """Answer every turn of every conversation; sampling.max_tokens holds where a conversation sets no limit.

    Runs are kept apart in the prefix cache: none finds what another one has left. Raises ConfigError for what the chat
    template refuses, EngineError where a step's outcome is missing.
    """
    run = _Run(engine, conversations, sampling, engine.memory.speculators[drafter].spec.max_drafts, progress)
    recorder = Recorder(policy, engine.scheduler.limits.max_num_seqs)
    with engine.scripted(recorder, drafter):
        run.fill()
        while engine.has_work:
            recorder.newest = None
            run.take(engine.step(), recorder)
            run.fill()
    return Answers(tuple(sorted(run.done, key=lambda each: (each.conversation, each.turn))), tuple(run.too_long))


class _Run:
    """The state of `answer_all`."""

    def __init__(
        self,
        engine: Engine,
        conversations: Sequence[Conversation],
        sampling: Sampling,
        width: int,
        progress: Progress | None,
    ) -> None:
        if engine.tokenizer is None:
            raise ConfigError("the engine has no tokenizer to read prompts with")
        self.engine, self.conversations, self.sampling, self.width = engine, conversations, sampling, width
        self.prompts = Prompts(engine.tokenizer, engine.max_model_len)
        self.done: list[Answer] = []
        self.too_long: list[str] = []
        self._progress, self._salt = progress, secrets.token_hex(8)
        self._waiting = deque(range(len(conversations)))
        # A conversation that goes on comes before those that have not begun: its prefix is still in the cache.
        self._ready: deque[tuple[int, tuple[str, ...]]] = deque()
        self._texts: dict[int, tuple[str, ...]] = {}
        self._open: dict[str, _Open] = {}

    def fill(self) -> None:
        """Give free slots something to answer."""
        while len(self._open) < self.engine.scheduler.limits.max_num_seqs and (self._ready or self._waiting):
            index, texts = self._ready.popleft() if self._ready else (self._waiting.popleft(), ())
            conversation = self.conversations[index]
            prompt = self.prompts.make(conversation, texts, self.sampling.max_tokens)
            if prompt is None:
                self.too_long.append(f"{conversation.place}, turn {len(texts) + 1}")
                self._advance()
                continue
            name = f"{index}.{len(texts)}"
            sampling = _with_limit(self.sampling, prompt.max_tokens)
            request = Request(name, prompt.ids, sampling, secrets.randbits(64), cache_salt=self._salt)
            self._open[name], self._texts[index] = _Open(index, len(texts), prompt), texts
            self.engine.add(request)

    def take(self, emissions: Sequence[Emission], recorder: Recorder) -> None:
        """Keep what a step brought; its outcome has a row per emission, in the same order."""
        outcome = recorder.newest
        if emissions and (outcome is None or len(outcome.slots) != len(emissions)):
            raise EngineError("a step told its policy of other sequences than it answered")
        for row, emission in enumerate(emissions):
            assert outcome is not None
            answer = self._open[emission.request_id]
            if answer.token_ids:
                answer.rounds.append((emission, int(recorder.room[outcome.slots[row]]), outcome.evidence[row]))
            else:
                answer.num_cached = emission.num_cached_tokens
            answer.token_ids.extend(emission.token_ids)
            if emission.finish_reason is not None:
                self._close(emission)

    def _close(self, emission: Emission) -> None:
        answer = self._open.pop(emission.request_id)
        text, index = self.prompts.tokenizer.decode(answer.token_ids), answer.conversation
        self.done.append(
            Answer(
                index,
                answer.turn,
                len(answer.prompt.ids),
                answer.num_cached,
                tuple(answer.token_ids),
                text,
                emission.finish_reason,
                _rounds(answer, self.width),
            )
        )
        texts = (*self._texts.pop(index), text)
        if len(texts) < self.conversations[index].num_turns:
            self._ready.append((index, texts))
        else:
            self._advance()

    def _advance(self) -> None:
        if self._progress:
            self._progress()


def _with_limit(sampling: Sampling, max_tokens: int) -> Sampling:
    return Sampling(max_tokens=max_tokens, temperature=sampling.temperature, top_p=sampling.top_p, top_k=sampling.top_k)


def _rounds(answer: _Open, width: int) -> Rounds:
    before = len(answer.prompt.ids) + len(answer.token_ids) - sum(len(each.token_ids) for each, _, _ in answer.rounds)
    emitted = np.array([len(each.token_ids) for each, _, _ in answer.rounds], dtype=np.int32)
    evidence = np.zeros((len(answer.rounds), width), dtype=np.float32)
    for row, (_, _, own) in enumerate(answer.rounds):
        evidence[row, : len(own)] = own

    def column(values: list[int]) -> I32:
        return np.array(values, dtype=np.int32)

    return Rounds(
        before + np.cumsum(emitted, dtype=np.int32) - emitted,
        column([room for _, room, _ in answer.rounds]),
        column([each.num_drafted for each, _, _ in answer.rounds]),
        column([each.verified for each, _, _ in answer.rounds]),
        column([each.accepted for each, _, _ in answer.rounds]),
        emitted,
        evidence,
    )
