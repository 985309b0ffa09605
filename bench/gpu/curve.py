"""The stage that measures what speculation is for: throughput against per-user speed of the trained pair, under load.

Modes are measured by turns in short windows (bench/interleave.py), each on an engine of its own, at 1 to 256 requests
at once. Ratios are to `off`, which loads no drafter, in the same round.
"""

from functools import partial
from typing import Any

import msgspec

from bench.gpu.stage import Bench, NotAvailable, run_stage
from bench.gpu.train_pair import pair_folder
from bench.in_process import EngineTarget
from bench.interleave import Schedule
from bench.interleave import measure as measure_modes
from bench.load import Load
from bench.modes import BASELINE, make_modes
from bench.prompt_pool import PromptPool
from bench.summary import summarise
from core.config import EngineSettings
from engine.build import build_engine

STAGE = "curve"
CONCURRENCY = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# The ends first: they have bars.
ORDER = (1, 256, 8, 4, 2, 64, 16, 128, 32)
MODES = (BASELINE, "fixed:1", "fixed:7", "load_adaptive")
DOMAINS, SEED, TEMPERATURE = ("math", "code", "chat"), 0, 1.0
ROUNDS, WINDOW_S = 8, 0.8
KV_TOKENS = 256 * 768


def measure(bench: Bench) -> None:
    """Measure every load."""
    loads = (1, 2) if bench.is_dry_run else ORDER
    keys = {f"at once {concurrency}": concurrency for concurrency in loads}
    if not bench.wants(*keys):
        return
    made: list[Modes] = []

    def take(concurrency: int) -> dict[str, Any]:
        if not made:
            made.append(Modes(bench))
        return made[0].at(concurrency)

    for key, concurrency in keys.items():
        bench.take(key, partial(take, concurrency))


class Modes:
    """The engines of all modes, each with the trained pair."""

    def __init__(self, bench: Bench) -> None:
        folder = pair_folder(bench.output)
        if not (folder / "dspark" / "config.json").is_file():
            raise NotAvailable(f"there is no trained pair at {folder}; the stage 'train' makes it")
        is_dry_run = bench.is_dry_run
        settings = EngineSettings(
            target=str(folder / "target"),
            device="cuda" if bench.device.type == "cuda" else "cpu",
            max_num_seqs=2 if is_dry_run else max(CONCURRENCY),
            kv_cache_tokens=4096 if is_dry_run else KV_TOKENS,
            max_num_batched_tokens=512 if is_dry_run else 4096,
            # A profile takes steps of every size, which a dry run has no time for.
            profile=not is_dry_run,
        )
        names = (BASELINE, "load_adaptive") if is_dry_run else MODES
        modes = make_modes(names, str(folder / "dspark"), settings)
        self._targets = [EngineTarget(mode.name, build_engine(mode.settings)) for mode in modes]
        self._schedule = Schedule(1, 0.05, 0.0) if is_dry_run else Schedule(ROUNDS, WINDOW_S, WINDOW_S)
        self._pool = PromptPool(DOMAINS, SEED)

    def at(self, concurrency: int) -> dict[str, Any]:
        """Return a row per mode under one load."""
        load = Load(concurrency, TEMPERATURE)
        measured = measure_modes(self._targets, [load], self._pool, self._schedule, SEED, print)
        return {"rows": msgspec.to_builtins(summarise(measured, BASELINE))}


if __name__ == "__main__":
    raise SystemExit(run_stage(STAGE, measure))
