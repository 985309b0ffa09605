"""The stage that times kernels beside their roofline: the ceilings are measured in the same process, first."""

from functools import partial
from typing import Any

import msgspec
import torch

from bench.gpu.ceilings import Ceilings, measure_ceilings
from bench.gpu.contract import Case
from bench.gpu.kernel_cases import all_cases
from bench.gpu.stage import Bench, run_stage

STAGE = "kernels"
CEILINGS = "ceilings"


def measure(bench: Bench) -> None:
    """Time every timed case; what earlier runs timed keeps the ceilings it was compared with."""
    with torch.inference_mode():
        ceilings = measure_ceilings(bench.watch)
        bench.take(CEILINGS, lambda: msgspec.to_builtins(ceilings))
        # Attention first: its bar is the stage's own.
        cases = [case for case in all_cases(is_dry_run=bench.is_dry_run) if case.is_timed]
        for case in sorted(cases, key=lambda case: case.module != "attention"):
            bench.take(case.key, partial(time_case, case, bench, ceilings))


def time_case(case: Case, bench: Bench, ceilings: Ceilings) -> dict[str, Any]:
    """Return a kernel's time and what part of it the device needs at least."""
    call = case.build(bench.device)
    timing = bench.watch.time(call.run)
    seconds = timing.median_us / 1e6
    return msgspec.to_builtins(timing) | {
        "bytes": call.num_bytes,
        "operations": call.operations,
        "floor_us": 1e6 * ceilings.floor_s(call.num_bytes, call.operations),
        "share_of_floor": ceilings.floor_s(call.num_bytes, call.operations) / seconds,
        "share_of_copy_bandwidth": call.num_bytes / seconds / ceilings.copy_bytes_per_s,
        "copy_bytes_per_s": ceilings.copy_bytes_per_s,
        "matmul_per_s": ceilings.matmul_per_s,
    }


if __name__ == "__main__":
    raise SystemExit(run_stage(STAGE, measure))
