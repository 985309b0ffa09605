"""Recorded requests under every arm of an experiment: the same texts, told apart by their speed alone.

Every request is keyed by what it is called, so with the `coupled` verifier its text does not depend on the arm; in
`batch_invariant` numerics it is the same bit for bit, and each stretch of them is an exact pair: every arm plays it, in
an order drawn for it, with the prefix cache off. What one arm computed must not speed up the next.

Laws are those of the requests, as recorded, but for their stop texts, which the service matches: an answer is as long
as the recorded one at most. Requests with a grammar are left out: the first arm to play one would compile it for the
others.
"""

import contextlib
import hashlib
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from core.config import Settings
from core.errors import ConfigError, RequestError
from core.experiments.spec import Experiment
from core.recorded_request import VERSION, RecordedRequest
from core.statistics import Interval, mean_interval
from core.types import Request
from engine.arms import make_arms, serve_arms
from engine.build import build_engine
from engine.engine import Engine
from engine.groups import Arm

# Tells seconds.
Clock = Callable[[], float]
# Requests of a stretch for each of those at once, at most; stretches to have, if there are requests enough.
MOST_TURNS, GOOD_STRETCHES = 8, 8


class _Versioned(Struct):
    version: int = 1


class ArmReplay(Struct, frozen=True):
    """One arm against the control: ratio of speeds by stretches, and answers that were the same to the last token."""

    arm: str
    tokens_per_s: float
    ratio: Interval
    num_identical: int


class ExperimentReplay(Struct, frozen=True):
    """What all arms came to; texts must be identical where numerics are batch_invariant.

    concurrency      requests at once
    num_old          of the requests, those whose line tells of their sampling the temperature alone
    left_out         requests that were not played, by what of them cannot be
    """

    num_requests: int
    num_stretches: int
    arms: tuple[ArmReplay, ...]
    must_be_identical: bool
    concurrency: int
    num_old: int = 0
    left_out: dict[str, int] = {}

    @property
    def is_identical(self) -> bool:
        """Tell whether no text differs that must not."""
        return not self.must_be_identical or all(one.num_identical == self.num_requests for one in self.arms)

    @property
    def markdown(self) -> str:
        """The report."""
        played = f"{self.num_requests} recorded requests in {self.num_stretches} stretches, each played by every arm"
        lines = [f"{played}, {self.concurrency} at once", ""]
        if self.left_out:
            reasons = ", ".join(f"{number} for their {name}" for name, number in sorted(self.left_out.items()))
            lines += [f"left out, as they cannot be replayed: {reasons}", ""]
        if self.num_old:
            lines += [f"{self.num_old} were recorded by an older specd, with their temperature alone", ""]
        lines += ["| arm | tokens/s | speed over the control's, 95 % | identical texts |", "|---|---|---|---|"]
        lines += [
            f"| {one.arm} | {one.tokens_per_s:.1f} | {one.ratio.estimate:.3f} "
            f"[{one.ratio.low:.3f}, {one.ratio.high:.3f}] | {one.num_identical} of {self.num_requests} |"
            for one in self.arms
        ]
        return "\n".join(lines) + "\n"


def replay_experiment(
    settings: Settings, experiment: Experiment, paths: Sequence[Path], concurrency: int | None = None
) -> ExperimentReplay:
    """Load what the settings name and play recorded requests under every arm, so many at once; raises SpecdError."""
    if concurrency is not None and not 1 <= concurrency <= settings.engine.max_num_seqs:
        raise ConfigError(
            f"--concurrency must be 1 to engine.max_num_seqs, {settings.engine.max_num_seqs}, got {concurrency}"
        )
    engine_settings = replace(settings.engine, prefix_cache=False)
    # Files may overlap; a request is played once.
    requests = list({request.id: request for path in paths for request in read_recorded(path)}.values())
    with contextlib.closing(build_engine(replace(settings, engine=engine_settings))) as engine:
        arms = make_arms(experiment, settings)
        return play(engine, arms, experiment, requests, settings.engine.numerics, concurrency=concurrency)


def play(
    engine: Engine,
    arms: dict[str, Arm],
    experiment: Experiment,
    recorded: Sequence[RecordedRequest],
    numerics: str,
    clock: Clock = time.perf_counter,
    *,
    concurrency: int | None = None,
) -> ExperimentReplay:
    """Play requests under every arm, so many at once, None for as many as the engine has slots; it must be idle.

    Raises ConfigError if there are none that can be played.
    """
    obstacles = {one.id: obstacle(engine, one) for one in recorded}
    left_out = Counter(reason for reason in obstacles.values() if reason is not None)
    recorded = [one for one in recorded if obstacles[one.id] is None]
    if not recorded:
        reasons = f"; left out for their {', '.join(sorted(left_out))}: {left_out.total()}" if left_out else ""
        raise ConfigError(f"there are no recorded requests to play{reasons}")
    concurrency = concurrency or engine.num_free_slots
    size, rng = stretch_len(len(recorded), concurrency), np.random.default_rng(0)
    stretches = [recorded[start : start + size] for start in range(0, len(recorded), size)]
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    texts: dict[str, dict[str, tuple[int, ...]]] = {name: {} for name in arms}
    # The first stretch is played once before, uncounted: a machine's first steps are slower than all others.
    for arm in arms.values():
        _play(engine, arm, stretches[0], concurrency, clock)
    for stretch in stretches:
        for name in rng.permutation(list(arms)).tolist():
            spent_s, answers = _play(engine, arms[name], stretch, concurrency, clock)
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
    num_old = sum(one.sampling is None for one in recorded)
    is_exact = numerics == "batch_invariant"
    return ExperimentReplay(len(recorded), len(stretches), tuple(found), is_exact, concurrency, num_old, dict(left_out))


def obstacle(engine: Engine, recorded: RecordedRequest) -> str | None:
    """Return what of a request cannot be played on an idle engine, by its name; None if all of it can."""
    if recorded.law.grammar is not None:
        return "grammar"
    request = to_request(recorded)
    try:
        engine.add(request)
    except RequestError as error:
        return error.param or "prompt"
    engine.abort(request.id)
    return None


def to_request(recorded: RecordedRequest) -> Request:
    """Return the request under a key of its own, for an answer as long as the recorded one at most."""
    key = int.from_bytes(hashlib.sha256(recorded.id.encode()).digest()[:8], "big")
    most = max(1, len(recorded.answer_ids))
    law = recorded.law
    sampling = replace(law, max_tokens=most, min_tokens=min(law.min_tokens, most), stop=())
    return Request(recorded.id, recorded.prompt_ids, sampling, key, coupled_key=key)


def stretch_len(num_requests: int, concurrency: int) -> int:
    """Return how many requests are played in one go.

    Towards a stretch's end fewer and fewer run at once, which live traffic does not do: the more requests, the less of
    the whole that is. But two stretches or more are needed to tell how they vary, and eight tell it well.
    """
    return max(concurrency, min(MOST_TURNS * concurrency, num_requests // GOOD_STRETCHES))


def read_recorded(path: Path) -> Iterator[RecordedRequest]:
    """Yield the requests of a file of [recording]; raises ConfigError for a line that is none."""
    try:
        with path.open("rb") as file:
            yield from (_read(line, f"{path}:{number}") for number, line in enumerate(file, 1) if line.strip())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error


def _read(line: bytes, where: str) -> RecordedRequest:
    try:
        # Before the rest of it is read, which a later version may tell otherwise.
        version = msgspec.json.decode(line, type=_Versioned).version
        if version > VERSION:
            raise ConfigError(f"{where} is a recorded request of version {version}; this specd reads up to {VERSION}")
        return msgspec.json.decode(line, type=RecordedRequest)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{where} is no recorded request with token ids: {error}") from error


def _play(
    engine: Engine, arm: Arm, stretch: Sequence[RecordedRequest], concurrency: int, clock: Clock
) -> tuple[float, dict[str, tuple[int, ...]]]:
    """Return the seconds that a stretch took, and its answers by request."""
    serve_arms(engine, partial(_always, arm))
    answers: dict[str, list[int]] = {one.id: [] for one in stretch}
    waiting, num_inside = deque(map(to_request, stretch)), 0
    started_s = clock()
    while waiting or engine.has_work:
        while waiting and num_inside < concurrency:
            engine.add(waiting.popleft())
            num_inside += 1
        for emission in engine.step():
            answers[emission.request_id].extend(emission.token_ids)
            num_inside -= emission.finish_reason is not None
    return clock() - started_s, {key: tuple(text) for key, text in answers.items()}


def _always(arm: Arm, request: Request) -> Arm:  # noqa: ARG001
    return arm
