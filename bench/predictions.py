"""How well the default policy knows what its steps will take and bring: predicted against actual, live.

python -m bench.predictions                    # the demo pair at 1, 4, 16 and 64 requests at once, two minutes
"""

import argparse
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from bench.logs import show_warnings_only
from bench.prompt_pool import PromptPool, Question
from bench.report import describe_run, write_json
from core.config import EngineSettings, Settings
from core.errors import SpecdError
from core.step_record import StepRecord
from core.types import Request, Sampling
from engine.build import build_engine
from engine.engine import Engine

RESULTS = Path(__file__).parent / "results" / "predictions.json"
DOMAINS = ("math", "code", "chat", "library")


class Prediction(Struct, frozen=True):
    """One load: steps of mostly decoding, and how far predictions were off.

    seconds_off     |predicted / actual - 1| of step seconds: median and 95th percentile
    seconds_ratio   all predicted seconds over all actual ones; tokens_ratio the same of tokens
    """

    load: int
    steps: int
    seconds_off: tuple[float, float]
    seconds_ratio: float
    tokens_ratio: float


def main() -> None:
    """Read the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description="Compare predicted with actual step times and tokens, live.")
    parser.add_argument("--loads", nargs="+", type=int, default=[1, 4, 16, 64])
    parser.add_argument("--seconds", type=float, default=25.0, help="per load, a fifth of it to warm up")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    show_warnings_only()
    console = Console(highlight=False)
    engine = build_engine(Settings(engine=EngineSettings(max_num_seqs=max(arguments.loads))))
    questions = PromptPool(DOMAINS, 0).asked_from(0)
    found = [measure(engine, questions, load, arguments.seconds) for load in arguments.loads]
    table = Table("at once", "steps", "seconds off, median", "95th", "predicted / actual seconds", "tokens", box=None)
    for one in found:
        median, high = one.seconds_off
        shown = f"{median:.1%}", f"{high:.1%}", f"{one.seconds_ratio:.3f}", f"{one.tokens_ratio:.3f}"
        table.add_row(str(one.load), str(one.steps), *shown)
    console.print(table)
    write_json(arguments.output, describe_run() | {"predictions": msgspec.to_builtins(found)})
    console.print(f"wrote {arguments.output}")


def measure(engine: Engine, questions: Iterator[Question], load: int, seconds: float) -> Prediction:
    """Serve `load` requests at once and hold every step that is mostly decoding against what was predicted of it."""
    started, records = time.perf_counter(), list[StepRecord]()
    while (spent := time.perf_counter() - started) < seconds:
        while len(engine.scheduler.running) + len(engine.scheduler.waiting) < load:
            send(engine, next(questions))
        engine.step()
        record = engine.recent.newest()
        # Of a step for which an older plan stood nothing is recorded.
        if spent <= seconds / 5 or record is None or record.step != engine.stats.steps:
            continue
        if record.sampling == record.sequences and record.predicted_step_s is not None:
            records.append(record)
    for sequence in (*engine.scheduler.running, *engine.scheduler.waiting):
        engine.abort(sequence.request.id)
    return judge(load, records)


def send(engine: Engine, question: Question) -> None:
    """Ask the engine one question of the pool."""
    assert engine.tokenizer is not None
    name = secrets.token_hex(8)
    sampling = Sampling(max_tokens=question.max_tokens)
    prompt = tuple(engine.tokenizer.encode(question.text))
    engine.add(Request(name, prompt, sampling, secrets.randbits(64), cache_salt=name))


def judge(load: int, records: list[StepRecord]) -> Prediction:
    """Compare; raises SpecdError if no step was predicted."""
    if not records:
        raise SpecdError(f"no step at {load} at once was predicted; give it more --seconds")
    predicted, actual = (np.array([getattr(r, name) for r in records]) for name in ("predicted_step_s", "step_s"))
    told = [record for record in records if record.predicted_tokens is not None]
    off = np.abs(predicted / actual - 1)
    return Prediction(
        load=load,
        steps=len(records),
        seconds_off=(float(np.median(off)), float(np.quantile(off, 0.95))),
        seconds_ratio=float(predicted.sum() / actual.sum()),
        tokens_ratio=sum(r.predicted_tokens or 0.0 for r in told) / max(1, sum(r.tokens for r in told)),
    )


if __name__ == "__main__":
    try:
        main()
    except SpecdError as error:
        raise SystemExit(f"bench: {error}") from error
