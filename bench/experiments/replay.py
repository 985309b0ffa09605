"""Recorded requests under every arm of an experiment: the same texts, told apart by their speed alone.

Every request is keyed by what it is called, so with the `coupled` verifier its text does not depend on the arm; in
`batch_invariant` numerics it is the same bit for bit, and each stretch of them is an exact pair: every arm plays it, in
an order drawn for it, with the prefix cache off. What one arm computed must not speed up the next.
"""

import contextlib
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from core.config import Settings
from core.errors import ConfigError
from core.experiments.spec import Experiment
from core.statistics import Interval, mean_interval
from core.types import Request, Sampling
from engine.arms import make_arms, serve_arms
from engine.build import build_engine
from engine.engine import Engine
from engine.groups import Arm

# Tells seconds.
Clock = Callable[[], float]
# Requests of a stretch for each slot, at most; stretches to have, if there are requests enough.
MOST_TURNS, GOOD_STRETCHES = 8, 8


class RecordedRequest(Struct, frozen=True):
    """What of a line of [recording] is needed to ask again; other fields are left alone."""

    id: str
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    temperature: float = 0.0


class ArmReplay(Struct, frozen=True):
    """One arm against the control: ratio of speeds by stretches, and answers that were the same to the last token."""

    arm: str
    tokens_per_s: float
    ratio: Interval
    num_identical: int


class ExperimentReplay(Struct, frozen=True):
    """What all arms came to; texts must be identical where numerics are batch_invariant."""

    num_requests: int
    num_stretches: int
    arms: tuple[ArmReplay, ...]
    must_be_identical: bool

    @property
    def is_identical(self) -> bool:
        """Tell whether no text differs that must not."""
        return not self.must_be_identical or all(one.num_identical == self.num_requests for one in self.arms)

    @property
    def markdown(self) -> str:
        """The report."""
        lines = [
            f"{self.num_requests} recorded requests in {self.num_stretches} stretches, each played by every arm",
            "",
        ]
        lines += ["| arm | tokens/s | speed over the control's, 95 % | identical texts |", "|---|---|---|---|"]
        lines += [
            f"| {one.arm} | {one.tokens_per_s:.1f} | {one.ratio.estimate:.3f} "
            f"[{one.ratio.low:.3f}, {one.ratio.high:.3f}] | {one.num_identical} of {self.num_requests} |"
            for one in self.arms
        ]
        return "\n".join(lines) + "\n"


def replay_experiment(settings: Settings, experiment: Experiment, paths: Sequence[Path]) -> ExperimentReplay:
    """Load what the settings name and play recorded requests under every arm; raises SpecdError."""
    engine_settings = replace(settings.engine, prefix_cache=False)
    # Files may overlap; a request is played once.
    requests = list({request.id: request for path in paths for request in read_recorded(path)}.values())
    with contextlib.closing(build_engine(replace(settings, engine=engine_settings))) as engine:
        return play(engine, make_arms(experiment, settings), experiment, requests, settings.engine.numerics)


def play(
    engine: Engine,
    arms: dict[str, Arm],
    experiment: Experiment,
    recorded: Sequence[RecordedRequest],
    numerics: str,
    clock: Clock = time.perf_counter,
) -> ExperimentReplay:
    """Play requests under every arm, with as many at once as the engine has slots; the engine must be idle.

    Raises ConfigError for no requests.
    """
    if not recorded:
        raise ConfigError("there are no recorded requests to play")
    size, rng = stretch_len(len(recorded), engine.num_free_slots), np.random.default_rng(0)
    stretches = [recorded[start : start + size] for start in range(0, len(recorded), size)]
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    texts: dict[str, dict[str, tuple[int, ...]]] = {name: {} for name in arms}
    # The first stretch is played once before, uncounted: a machine's first steps are slower than all others.
    for arm in arms.values():
        _play(engine, arm, stretches[0], clock)
    for stretch in stretches:
        for name in rng.permutation(list(arms)).tolist():
            spent_s, answers = _play(engine, arms[name], stretch, clock)
            seconds[name].append(spent_s)
            texts[name] |= answers
    control = experiment.control_arm
    num_tokens = sum(len(text) for text in texts[control].values())
    found = []
    for name in arms:
        logs = np.log(seconds[control]) - np.log(seconds[name])
        mean = mean_interval(logs)
        ratio = Interval(math.exp(mean.estimate), math.exp(mean.low), math.exp(mean.high))
        same = sum(texts[name][key] == text for key, text in texts[control].items())
        found.append(ArmReplay(name, num_tokens / sum(seconds[name]), ratio, same))
    return ExperimentReplay(len(recorded), len(stretches), tuple(found), numerics == "batch_invariant")


def stretch_len(num_requests: int, num_slots: int) -> int:
    """Return how many requests are played in one go.

    Towards a stretch's end fewer and fewer run at once, which live traffic does not do: the more requests, the less of
    the whole that is. But two stretches or more are needed to tell how they vary, and eight tell it well.
    """
    return max(num_slots, min(MOST_TURNS * num_slots, num_requests // GOOD_STRETCHES))


def read_recorded(path: Path) -> Iterator[RecordedRequest]:
    """Yield the requests of a file of [recording]; raises ConfigError for a line that is none."""
    try:
        with path.open("rb") as file:
            yield from (_read(line, f"{path}:{number}") for number, line in enumerate(file, 1) if line.strip())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error


def _read(line: bytes, where: str) -> RecordedRequest:
    try:
        return msgspec.json.decode(line, type=RecordedRequest)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{where} is no recorded request with token ids: {error}") from error


def _play(
    engine: Engine, arm: Arm, stretch: Sequence[RecordedRequest], clock: Clock
) -> tuple[float, dict[str, tuple[int, ...]]]:
    """Return the seconds that a stretch took, and its answers by request."""
    serve_arms(engine, partial(_always, arm))
    answers: dict[str, list[int]] = {one.id: [] for one in stretch}
    for one in stretch:
        key = int.from_bytes(hashlib.sha256(one.id.encode()).digest()[:8], "big")
        sampling = Sampling(max_tokens=max(1, len(one.answer_ids)), temperature=one.temperature)
        engine.add(Request(one.id, one.prompt_ids, sampling, key, coupled_key=key))
    started_s = clock()
    while engine.has_work:
        for emission in engine.step():
            answers[emission.request_id].extend(emission.token_ids)
    return clock() - started_s, {key: tuple(text) for key, text in answers.items()}


def _always(arm: Arm, request: Request) -> Arm:  # noqa: ARG001
    return arm
