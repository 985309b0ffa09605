"""What a policy costs: microseconds of `plan`, and of `plan` with admission, for 1 to 256 sequences of 7 drafts.

    python -m bench.plan_time          prints a table and writes bench/results/plan_time.json

Each policy plays a few hundred steps as an engine would ask it: sequences end and others take their slots (1 in 80 per
step), survivals are recorded, outcomes observed. A plan that stands for several steps counts in each of them. Costs
come from a modelled GPU's table with padded shapes; admission is `kernels.admit` on this CPU. What is counted is the
thread's own time, so that a busy machine does not count as thinking.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bench.machine import describe_machine
from core.batch_lengths import BatchLengths
from core.config import BatchTableSettings, GreedySettings, PolicySettings, Settings, all_policies
from core.cost import CostTable
from core.planning import F32, I32, Plan, Policy, StepOutcome, StepView
from core.tensors import Favour
from engine.build import make_policy
from kernels.admit import admit

F64 = NDArray[np.float64]

G = 7
SIZES = (1, 4, 16, 64, 256)
STEPS, WARM_UP = 600, 100
ENDS = 1 / 80
SHAPES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
LENGTHS: BatchLengths = ((1, 8, 7), (9, 64, 3), (65, 4096, 1))


def main() -> int:
    """Measure all policies and write the result down."""
    parser = argparse.ArgumentParser(description="microseconds of a plan, by policy and number of sequences")
    parser.add_argument("--output", type=Path, default=Path("bench/results/plan_time.json"))
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        {"policy": name, "sequences": size} | measure(make(), size, arguments.steps)
        for name, make in policies().items()
        for size in SIZES
    ]
    for row in rows:
        figures = "  ".join(f"{name} {value:7.1f}" for name, value in row.items() if isinstance(value, float))
        print(f"{row['policy']:<16} {row['sequences']:>4}  {figures}")
    result = {"machine": describe_machine(), "drafts": G, "steps": arguments.steps, "unit": "us", "rows": rows}
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def policies() -> dict[str, Callable[[], Policy]]:
    """Return every shipped policy by name, with its defaults."""
    settings: dict[str, PolicySettings] = all_policies(Settings())
    settings |= {"batch_table": BatchTableSettings(LENGTHS), "greedy-literal": GreedySettings(literal=True)}
    return {name: lambda one=one: make_policy(one) for name, one in settings.items()}  # type: ignore[misc]


def measure(policy: Policy, size: int, num_steps: int) -> dict[str, float]:
    """Return the medians, means and 99th percentiles of planning, and of planning and admission, in microseconds."""
    load = Load(size)
    times = np.array([load.step(policy, index) for index in range(num_steps + WARM_UP)][WARM_UP:]) * 1e6
    both = times.sum(1)
    planning = times[:, 0]
    return {
        "plan": float(np.median(planning)),
        "plan_mean": float(planning.mean()),
        "plan_p99": float(np.percentile(planning, 99)),
        "plan_and_admit": float(np.median(both)),
        "plan_and_admit_p99": float(np.percentile(both, 99)),
    }


class Load:
    """A full batch of made-up sequences, each with drafts of its own quality."""

    def __init__(self, size: int) -> None:
        self._random, self._size, self._cost = np.random.default_rng(0), size, modelled_gpu()
        self._quality = self._random.beta(6, 2, size)
        self._context = self._random.integers(100, 1000, size).astype(np.int32)
        self._survival_lag = np.full((size, G), np.nan, dtype=np.float32)
        self._deadline_in_s = np.where(np.arange(size) % 2, self._random.uniform(2, 60, size), np.inf).astype(
            np.float32
        )

    def step(self, policy: Policy, index: int) -> tuple[float, float]:
        """Play one step; returns the seconds of planning and of admission."""
        view, live = self._view(index), self._live()
        started = time.thread_time()
        plan = policy.plan(view)
        planned_s = time.thread_time() - started
        lengths, admitted_s = self._admit(plan, live)
        self._finish(policy, view, plan, live, lengths)
        return planned_s, admitted_s

    def _view(self, index: int) -> StepView:
        return StepView(
            step=index,
            slots=np.arange(self._size, dtype=np.int32),
            gamma_max=np.full(self._size, G, dtype=np.int32),
            samples=np.ones(self._size, dtype=np.bool_),
            context_len=self._context.copy(),
            extra_rows=0,
            extra_sequences=0,
            stale_rows=np.zeros(self._size, dtype=np.int32),
            survival_lag=self._survival_lag.copy(),
            tokens_left=np.full(self._size, 300, dtype=np.int32),
            priority=np.ones(self._size, dtype=np.int32),
            deadline_in_s=self._deadline_in_s,
            kv_free=0.5,
            queue_depth=0,
            cost=self._cost,
        )

    def _live(self) -> F32:
        noise = self._random.normal(0, 0.1, (self._size, G))
        return np.cumprod(np.clip(self._quality[:, None] + noise, 0.01, 0.99), axis=1).astype(np.float32)

    def _admit(self, plan: Plan, live: F32) -> tuple[I32, float]:
        survival, drafted = torch.from_numpy(live), torch.from_numpy(plan.draft_len)
        group = torch.zeros(self._size, dtype=torch.int64)
        favour = None
        if plan.floor is not None or plan.weight is not None:
            floor = np.zeros(self._size, dtype=np.int32) if plan.floor is None else plan.floor
            weight = np.ones(self._size, dtype=np.float32) if plan.weight is None else plan.weight
            favour = Favour(torch.from_numpy(floor), torch.from_numpy(weight))
        with torch.inference_mode():
            started = time.thread_time()
            lengths = admit(survival, drafted, group, (plan.rule,), favour)
            return lengths.numpy(), time.thread_time() - started

    def _finish(self, policy: Policy, view: StepView, plan: Plan, live: F32, lengths: I32) -> None:
        accepted = np.minimum((self._random.random((self._size, 1)) < live).sum(1), lengths).astype(np.int32)
        drafts = plan.draft_len > 0
        self._survival_lag[drafts] = live[drafts]
        self._context += accepted + 1
        rows, nothing = self._size + int(lengths.sum()), np.zeros((self._size, G), dtype=np.float32)
        step_s = float(self._cost.step_s(self._size, int(drafts.sum()), int(lengths.sum()), 512))
        floored = np.zeros(self._size, dtype=np.int32)
        policy.observe(
            StepOutcome(
                view.step + 1,
                view.slots,
                plan.draft_len,
                lengths,
                accepted,
                step_s,
                rows,
                0,
                0,
                nothing,
                live,
                nothing,
                floored,
            )
        )
        ended = self._random.random(self._size) < ENDS
        self._context[ended], self._survival_lag[ended] = 50, np.nan
        self._quality[ended] = self._random.beta(6, 2, int(ended.sum()))


def modelled_gpu() -> CostTable:
    """Return a table of an 8B target's shape on one large GPU: flat until compute binds, then by padded shapes."""
    grid = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    lengths = tuple(range(G + 1))
    ladder = np.array(SHAPES)

    def step_s(rows: int) -> float:
        padded = int(ladder[min(int(np.searchsorted(ladder, rows)), len(ladder) - 1)])
        return max(4.2e-3, 8e-6 * max(rows, padded))

    return CostTable(
        sequences=grid,
        lengths=lengths,
        contexts=(512,),
        plain_s=(tuple(step_s(n) for n in grid),),
        verify_s=(tuple(tuple(step_s(n * (1 + k)) for k in lengths) for n in grid),),
        draft_s=(tuple(4e-4 + 2e-6 * n for n in grid),),
        prefill_row_s=8e-6,
        catch_up_row_s=8e-6,
        row_shapes=SHAPES,
    )


if __name__ == "__main__":
    raise SystemExit(main())
