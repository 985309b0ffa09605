"""The recorded requests on a real engine, in a closed loop: what a simulation of them is held against."""

import random
import time
from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace

from bench.prompt_pool import Question
from bench.simulate.record import request_of
from bench.simulate.seen_steps import SeenStep
from bench.window import Answer, Window
from engine.engine import Engine


class LiveLoop:
    """One engine with its clients; its time stands still while another one is measured.

    seen    its steps, but for those in which a drafter caught up, without the time that the policy took
    plan_s  by step, all of them: seconds that the policy took
    """

    def __init__(self, engine: Engine, questions: Sequence[Question], temperature: float) -> None:
        self.engine, self._questions, self._temperature = engine, questions, temperature
        self.seen: list[SeenStep] = []
        self.plan_s: list[float] = []
        self._clock_s, self._num_sent, self._clients = 0.0, 0, 0
        self._answers: dict[str, Answer] = {}

    def start(self, clients: int) -> None:
        """Begin with so many clients, their first answers cut to lengths spread evenly."""
        for request_id in list(self._answers):
            self.engine.abort(request_id)
        self._answers.clear()
        self._clients = clients
        shares = [(index + 1) / clients for index in range(clients)]
        random.Random(clients).shuffle(shares)  # noqa: S311, the same load for every engine
        for share in shares:
            self._send(share)

    def measure(self, seconds: float) -> Window:
        """Step for so long and return what clients saw."""
        window, stats, started_s = Window(), self.engine.stats, self._clock_s
        before = stats.rounds, stats.verified, stats.accepted
        while self._clock_s - started_s < seconds:
            # Who has read the end of an answer asks again while the next step runs, if others keep the engine busy.
            num_asking = self._clients - len(self._answers)
            if self._answers:
                self._step(window)
            for _ in range(num_asking):
                self._send(1.0)
        window.seconds = self._clock_s - started_s
        after = stats.rounds, stats.verified, stats.accepted
        window.rounds, window.verified, window.accepted = (now - then for now, then in zip(after, before, strict=True))
        return window

    def _send(self, share: float) -> None:
        # Texts are taken in an order that differs from turn to turn, so that no two of them always run together.
        turn, place = divmod(self._num_sent, len(self._questions))
        order = random.Random(turn).sample(range(len(self._questions)), len(self._questions))  # noqa: S311
        request = request_of(order[place], self._questions[order[place]], self.engine, self._temperature)
        limit = max(1, round(share * request.sampling.max_tokens))
        name = str(self._num_sent)
        self._num_sent += 1
        self._answers[name] = Answer(self._clock_s, ends_at_loop=False)
        sampling = replace(request.sampling, max_tokens=limit)
        started = time.perf_counter()
        self.engine.add(replace(request, id=name, cache_salt=name, sampling=sampling))
        self._clock_s += time.perf_counter() - started

    def _step(self, window: Window) -> None:
        stats = self.engine.stats
        worked, emitted, planned_s = stats.step_tokens.total, stats.emitted, stats.seconds["plan"]
        context = float(np.mean([one.num_computed for one in self.engine.scheduler.running] or [0]))
        started = time.perf_counter()
        emissions = self.engine.step()
        seconds = time.perf_counter() - started
        self._clock_s += seconds
        prefill_rows = round(stats.step_tokens.total - worked) - (stats.emitted - emitted)
        plan_s = stats.seconds["plan"] - planned_s
        self.plan_s.append(plan_s)
        self._see(len(emissions), context, seconds - plan_s, prefill_rows)
        for emission in emissions:
            self._answers[emission.request_id].arrive(window, self._clock_s, len(emission.token_ids))
            if emission.finish_reason is not None:
                del self._answers[emission.request_id]

    def _see(self, num_sequences: int, context: float, seconds: float, prefill_rows: int) -> None:
        """Note a step in which somebody decodes; of one without a drafter nothing is recorded."""
        record = self.engine.recent.newest()
        if record is None or record.step != self.engine.stats.steps:
            told = (num_sequences, 0, 0, context)
        elif record.rows == record.sampling + record.verified + prefill_rows:
            told = (record.sampling, record.followed, record.verified, record.context_len)
        else:
            return
        if told[0]:
            self.seen.append(SeenStep(*told, seconds, prefill_rows))
