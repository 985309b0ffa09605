"""An engine in this process under load. Its time stands still while another one is measured.

Engines are measured by turns, and one that is not stepped is paused as it is: answers in flight go on where they were,
so a window needs no ramp. Only what the engine itself does is timed, so the clients cost nothing.
"""

import secrets
import time
from collections import Counter

from bench.load import Load, Questions
from bench.window import Answer, Window
from core.errors import ConfigError
from core.types import Request, Sampling
from engine.engine import Engine


class EngineTarget:
    """One engine with its clients."""

    def __init__(self, name: str, engine: Engine) -> None:
        if engine.tokenizer is None:
            raise ConfigError(f"the engine of {name!r} has no tokenizer to read prompts with")
        self.name, self.engine, self._encode = name, engine, engine.tokenizer.encode
        self._clock_s, self._num_sent = 0.0, 0
        self._answers: dict[str, Answer] = {}

    def start(self, load: Load, questions: Questions) -> None:
        """Begin to serve a load; the questions are this target's own."""
        self._load, self._questions = load, questions

    def measure(self, seconds: float) -> Window:
        """Step the engine for so long and return what happened."""
        window, before, started_s = Window(), _counts(self.engine), self._clock_s
        seconds_before = Counter(self.engine.stats.seconds)
        while self._clock_s - started_s < seconds:
            while len(self._answers) < self._load.concurrency:
                self._send()
            self._step(window)
        spent = {name: count - before[name] for name, count in _counts(self.engine).items()}
        window.seconds = self._clock_s - started_s
        window.rounds, window.verified, window.accepted = spent["rounds"], spent["verified"], spent["accepted"]
        window.drafted, window.steps = spent["drafted"], spent["steps"]
        window.part_s = {part: total - seconds_before[part] for part, total in self.engine.stats.seconds.items()}
        return window

    def stop(self) -> None:
        """Drop what is in flight; the load is over."""
        for request_id in list(self._answers):
            self.engine.abort(request_id)
        self._answers.clear()

    def _send(self) -> None:
        question = self._questions.take()
        self._num_sent += 1
        name = str(self._num_sent)
        sampling = Sampling(max_tokens=question.max_tokens, temperature=self._load.temperature)
        prompt = tuple(self._encode(question.text))
        request = Request(name, prompt, sampling, secrets.randbits(64), cache_salt=name)
        self._answers[name] = Answer(self._clock_s, ends_at_loop=self._load.is_greedy)
        started = time.perf_counter()
        self.engine.add(request)
        self._clock_s += time.perf_counter() - started

    def _step(self, window: Window) -> None:
        started = time.perf_counter()
        emissions = self.engine.step()
        self._clock_s += time.perf_counter() - started
        for emission in emissions:
            answer = self._answers[emission.request_id]
            answer.arrive(window, self._clock_s, len(emission.token_ids))
            looping = answer.loops_now(window, emission.token_ids)
            if emission.finish_reason is not None or looping:
                # Of a finished request the engine knows nothing any more, and an abort is nothing to do.
                self.engine.abort(emission.request_id)
                del self._answers[emission.request_id]


def _counts(engine: Engine) -> dict[str, int]:
    stats = engine.stats
    return {
        "steps": stats.steps,
        "rounds": stats.rounds,
        "drafted": stats.drafted,
        "verified": stats.verified,
        "accepted": stats.accepted,
    }
