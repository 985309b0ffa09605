"""The stage that checks every kernel on the device against its twin in float64, with memory poisoned beforehand."""

from functools import partial
from typing import Any

import msgspec
import torch

from bench.gpu.contract import Case
from bench.gpu.kernel_cases import all_cases, unchecked_modules
from bench.gpu.stage import Bench, run_stage
from core.errors import SpecdError

STAGE = "numerics"
UNCHECKED = "modules without a case"


def measure(bench: Bench) -> None:
    """Check every case of the table."""
    cases = all_cases(is_dry_run=bench.is_dry_run)
    bench.take(UNCHECKED, lambda: {"modules": unchecked_modules(cases)})
    # What torch allocates holds nan or the largest integer, so that nothing unwritten passes for a result.
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        for case in cases:
            if case.is_checked:
                bench.take(case.key, partial(check, case, bench.device))
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@torch.inference_mode()
def check(case: Case, device: torch.device) -> dict[str, Any]:
    """Return how far each output is from what it should be; raises SpecdError where one is too far."""
    call = case.build(device)
    gaps = call.check(call.run())
    if wrong := {name: gap for name, gap in gaps.items() if not gap.passes}:
        told = "; ".join(
            f"{name}: {gap.measure} is {gap.error:.3g}, {gap.tolerance:.3g} is allowed" for name, gap in wrong.items()
        )
        raise SpecdError(told)
    return {name: msgspec.to_builtins(gap) for name, gap in gaps.items()}


if __name__ == "__main__":
    raise SystemExit(run_stage(STAGE, measure))
