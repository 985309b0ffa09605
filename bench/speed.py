"""What speculation is worth on this machine: tokens per second with and without it, side by side in one run.

    python -m bench.speed                    # all domains, concurrency 1 and 16, JSON and PNG under bench/results
    python -m bench.speed --rounds 2 --domains math

Every mode answers the same held-out prompts by turns, engine in process, one thread. The baseline has no drafter loaded
and takes no features; float32 and bf16 are both run, and a ratio is always to the faster of the two. At temperature 0
an answer ends where its text begins to loop: loops flatter every drafter.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
from matplotlib import pyplot as plt
from rich.console import Console
from rich.table import Table

from bench.machine import describe_machine
from core.config import (
    ConfidenceSettings,
    DrafterSettings,
    DSparkSettings,
    EngineSettings,
    FixedSettings,
    NgramSettings,
    NoDrafterSettings,
    OffSettings,
    PolicySettings,
    Settings,
)
from core.errors import ConfigError
from core.repetition import loop_start
from core.statistics import Interval, mean_interval
from core.types import Request, Sampling
from engine.build import build_engine
from engine.engine import Engine

PROMPTS = Path(__file__).parent / "prompts" / "demo.json"
RESULTS = Path(__file__).parent / "results"
WARM_UP_TOKENS = 8


class Mode(msgspec.Struct, frozen=True):
    """One way to decode."""

    drafter: DrafterSettings
    policy: PolicySettings
    dtype: str


MODES = {
    "off float32": Mode(NoDrafterSettings(), OffSettings(), "float32"),
    "off bf16": Mode(NoDrafterSettings(), OffSettings(), "bfloat16"),
    "dspark confidence float32": Mode(DSparkSettings(), ConfidenceSettings(), "float32"),
    "dspark confidence bf16": Mode(DSparkSettings(), ConfidenceSettings(), "bfloat16"),
    "dspark fixed 7 bf16": Mode(DSparkSettings(), FixedSettings(7), "bfloat16"),
    "n-gram confidence float32": Mode(NgramSettings(), ConfidenceSettings(), "float32"),
}
BASELINES = ("off float32", "off bf16")


class Cell(msgspec.Struct, frozen=True):
    """One domain, temperature and concurrency: tokens per second of each mode, and its ratio to the best baseline."""

    domain: str
    temperature: float
    concurrency: int
    baseline: str
    tokens_per_s: dict[str, float]
    ratio: dict[str, Interval]
    accepted_length: dict[str, float]
    verify_length: dict[str, float]


class Workload(msgspec.Struct, frozen=True):
    """Requests of one cell: prompts as token ids with the most tokens each may get."""

    prompts: list[tuple[int, ...]]
    max_tokens: list[int]
    temperature: float


def make_engines() -> dict[str, Engine]:
    """Build one engine per mode."""
    engines = {}
    for name, mode in MODES.items():
        settings = EngineSettings(dtype=mode.dtype, max_num_seqs=16, kv_cache_tokens=16384)  # type: ignore[arg-type]
        engines[name] = build_engine(Settings(engine=settings, drafter=mode.drafter, policy=mode.policy))
    return engines


def run(engine: Engine, work: Workload, nonce: int) -> float:
    """Answer a workload, all requests at once; returns tokens per second."""
    for index, (prompt, max_tokens) in enumerate(zip(work.prompts, work.max_tokens, strict=True)):
        sampling = Sampling(max_tokens=max_tokens, temperature=work.temperature)
        engine.add(Request(str(index), prompt, sampling, nonce + index))
    tokens, started = 0, time.perf_counter()
    while engine.has_work:
        tokens += sum(len(emission.token_ids) for emission in engine.step())
    return tokens / (time.perf_counter() - started)


def measure(engines: dict[str, Engine], domain: str, work: Workload, concurrency: int, rounds: int) -> Cell:
    """Run every mode on the same prompts by turns, `rounds` times."""
    batches = list(_batches(work, concurrency))
    speed: dict[str, list[float]] = {name: [] for name in engines}
    before = {name: _counts(engine) for name, engine in engines.items()}
    for index in range(rounds):
        for name, engine in engines.items():
            rates = [run(engine, batch, 1000 * index + 7919 * b) for b, batch in enumerate(batches)]
            # Harmonic: total tokens over total time, were all batches of one length.
            speed[name].append(len(rates) / sum(1 / rate for rate in rates))
    baseline = max(BASELINES, key=lambda name: float(np.median(speed[name])))
    ratio = {name: mean_interval(np.array(values) / np.array(speed[baseline])) for name, values in speed.items()}
    spent = {name: _counts(engine) - before[name] for name, engine in engines.items()}
    return Cell(
        domain,
        work.temperature,
        concurrency,
        baseline,
        {name: float(np.median(values)) for name, values in speed.items()},
        ratio,
        {name: float(counts[0] / counts[1]) for name, counts in spent.items()},
        {name: float(counts[2] / counts[1]) for name, counts in spent.items()},
    )


def _counts(engine: Engine) -> np.ndarray:
    stats = engine.stats
    return np.array([stats.emitted, stats.rounds, stats.verified], dtype=np.float64)


def _batches(work: Workload, concurrency: int) -> Iterator[Workload]:
    for start in range(0, len(work.prompts), concurrency):
        part = slice(start, start + concurrency)
        yield Workload(work.prompts[part], work.max_tokens[part], work.temperature)


def load_workload(engine: Engine, domain: str, temperature: float, count: int) -> Workload:
    """Read a domain's prompts; greedy answers end where they begin to loop."""
    entry = json.loads(PROMPTS.read_text(encoding="utf-8"))[domain]
    assert engine.tokenizer is not None
    prompts = [tuple(engine.tokenizer.encode(text)) for text in entry["prompts"][:count]]
    limits = [entry["max_tokens"]] * len(prompts)
    if temperature == 0:
        done = engine.generate(prompts, Sampling(max_tokens=entry["max_tokens"], temperature=0.0))
        limits = [max(WARM_UP_TOKENS, loop_start(completion.token_ids)) for completion in done]
    return Workload(prompts, limits, temperature)


def show(cells: list[Cell], console: Console) -> None:
    """Print one line per cell and mode."""
    table = Table(
        "domain", "T", "at once", "mode", "tokens/s", "ratio to best without", "accepted length", "verify length"
    )
    for cell in cells:
        for name, rate in cell.tokens_per_s.items():
            ratio = cell.ratio[name]
            table.add_row(
                cell.domain,
                f"{cell.temperature:g}",
                str(cell.concurrency),
                name,
                f"{rate:.0f}",
                f"{ratio.estimate:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]",
                f"{cell.accepted_length[name]:.2f}",
                f"{cell.verify_length[name]:.2f}",
            )
    console.print(table)


def plot(cells: list[Cell], path: Path) -> None:
    """Draw the ratios, one panel per temperature and concurrency."""
    panels = sorted({(cell.temperature, cell.concurrency) for cell in cells}, key=lambda key: (-key[0], key[1]))
    figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 4), sharey=True, squeeze=False)
    names = [name for name in MODES if name not in BASELINES]
    for axis, (temperature, concurrency) in zip(axes[0], panels, strict=True):
        shown = [cell for cell in cells if (cell.temperature, cell.concurrency) == (temperature, concurrency)]
        places = np.arange(len(shown))
        for index, name in enumerate(names):
            ratios = [cell.ratio[name] for cell in shown]
            error = np.array([(r.estimate - r.low, r.high - r.estimate) for r in ratios]).T
            heights = [r.estimate for r in ratios]
            axis.bar(places + (index - 1.5) * 0.2, heights, 0.2, yerr=np.nan_to_num(error, posinf=0), label=name)
        axis.axhline(1.0, color="black", linewidth=0.8)
        axis.set_xticks(places, [cell.domain for cell in shown])
        axis.set_title(f"temperature {temperature:g}, {concurrency} at once")
    axes[0][0].set_ylabel("tokens/s, ratio to the best without a drafter")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="lower center", ncols=len(names), frameon=False)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.savefig(path, dpi=120)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure speculation against plain decoding on the demo pair.")
    parser.add_argument("--domains", nargs="+", default=["math", "code", "chat", "library"])
    parser.add_argument("--concurrency", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--temperatures", nargs="+", type=float, default=[1.0, 0.0])
    parser.add_argument("--prompts", type=int, default=16, help="prompts per domain")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    console, engines = Console(), make_engines()
    for engine in engines.values():
        engine.generate([(1, 2, 3)], Sampling(max_tokens=WARM_UP_TOKENS))
    cells = []
    for domain in arguments.domains:
        for temperature in arguments.temperatures:
            work = load_workload(engines["off float32"], domain, temperature, arguments.prompts)
            for concurrency in arguments.concurrency:
                # One at a time takes as long as many at once, so it gets fewer prompts.
                part = work if concurrency > 1 else next(_batches(work, max(1, arguments.prompts // 4)))
                cells.append(measure(engines, domain, part, concurrency, arguments.rounds))
    show(cells, console)
    RESULTS.mkdir(exist_ok=True)
    report = {"machine": describe_machine(), "rounds": arguments.rounds, "cells": msgspec.to_builtins(cells)}
    (RESULTS / "speed.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    plot(cells, RESULTS / "speed.png")
    console.print(f"machine: {report['machine']}\nwrote {RESULTS / 'speed.json'} and speed.png")


if __name__ == "__main__":
    try:
        main()
    except ConfigError as error:
        raise SystemExit(f"bench: {error}") from error
