"""The stage that times whole steps of random Qwen3-4B and 8B, from 1 to 512 rows, beside what reading weights takes.

The bound of a step is reading every weight once at the bandwidth that a copy has in the same process.
"""

from functools import partial
from typing import Any

import msgspec
from msgspec import Struct

from bench.gpu.ceilings import Ceilings, measure_ceilings
from bench.gpu.engine_steps import SteppedEngine
from bench.gpu.random_drafts import RandomDrafts
from bench.gpu.random_pair import NUM_DRAFTS, QWEN3_4B, QWEN3_8B, TINY, random_target
from bench.gpu.stage import Bench, run_stage
from bench.gpu.timing import timing_of
from models.qwen3 import Qwen3Config

STAGE = "step"
SHORT, LONG = 512, 4096


class StepCase(Struct, frozen=True):
    """A batch of sequences at one context, with so many drafts of each verified (None: plain decoding)."""

    sequences: int
    drafts: int | None
    context: int

    @property
    def rows(self) -> int:
        """Rows of the target's forward."""
        return self.sequences * (1 + (self.drafts or 0))

    @property
    def name(self) -> str:
        """The case in a measurement's key."""
        return f"rows{self.rows}/B{self.sequences}-C{self.context}"


def models(*, is_dry_run: bool) -> dict[str, Qwen3Config]:
    """Return the shapes that are timed."""
    return {"tiny": TINY} if is_dry_run else {"4B": QWEN3_4B, "8B": QWEN3_8B}


def step_cases(*, is_dry_run: bool) -> list[StepCase]:
    """Return the batches, those with a bar first."""
    if is_dry_run:
        return [StepCase(1, None, 16), StepCase(2, 2, 40)]
    grid = [(1, None), (1, NUM_DRAFTS), (8, None), (8, NUM_DRAFTS), (64, None), (64, NUM_DRAFTS)]
    short_only = [StepCase(256, None, SHORT), StepCase(512, None, 64)]
    return [StepCase(*batch, context) for batch in grid for context in (SHORT, LONG)] + short_only


def step_key(model: str, case: StepCase, *, graphs: bool) -> str:
    """Return the name of a measurement."""
    return f"{model}/{'graphs' if graphs else 'eager'}/{case.name}"


def measure(bench: Bench) -> None:
    """Time every model, first with graphs if there are any: these are what has a bar."""
    cases = step_cases(is_dry_run=bench.is_dry_run)
    ceilings = measure_ceilings(bench.watch)
    bench.take("ceilings", lambda: msgspec.to_builtins(ceilings))
    for model, config in models(is_dry_run=bench.is_dry_run).items():
        for graphs in (True, False):
            keys = {step_key(model, case, graphs=graphs): case for case in cases}
            if bench.wants(*keys):
                _measure_model(bench, keys, config, ceilings, graphs=graphs)


def _measure_model(
    bench: Bench, keys: dict[str, StepCase], config: Qwen3Config, ceilings: Ceilings, *, graphs: bool
) -> None:
    made: list[SteppedEngine] = []
    most = max(case.sequences * (case.context + 512) for case in keys.values())

    def take(case: StepCase) -> dict[str, Any]:
        # Made by the first measurement that needs it, so that a failure is written down as its own.
        if not made:
            target = random_target(config, bench.device)
            drafter = RandomDrafts(NUM_DRAFTS, config.vocab_size)
            made.append(SteppedEngine(target, drafter, bench.device, most, graphs=graphs))
        return time_step(made[0], case, ceilings)

    for key, case in keys.items():
        bench.take(key, partial(take, case))


def time_step(stepped: SteppedEngine, case: StepCase, ceilings: Ceilings) -> dict[str, Any]:
    """Return the times of a batch's steps and the bounds that they are compared with."""
    with stepped.batch(case.sequences, case.context, case.drafts):
        timing = timing_of(stepped.time(case.sequences))
    weights_s = stepped.target.weight_bytes / ceilings.copy_bytes_per_s
    kv_bytes = case.sequences * case.context * stepped.target.kv_bytes_per_token
    return msgspec.to_builtins(timing) | {
        "rows": case.rows,
        "sequences": case.sequences,
        "context": case.context,
        "weight_bytes": stepped.target.weight_bytes,
        "kv_bytes": kv_bytes,
        "weights_us": 1e6 * weights_s,
        "ratio_to_weights": timing.median_us / 1e6 / weights_s,
        "ratio_to_weights_and_kv": timing.median_us / 1e6 / (weights_s + kv_bytes / ceilings.copy_bytes_per_s),
    }


if __name__ == "__main__":
    raise SystemExit(run_stage(STAGE, measure))
