"""The table of kernels that are checked and timed on the device, each called as the engine calls it.

A case is a kernel's contract with inputs: what to call, what a twin in float64 says of the result, how many bytes and
operations the least work for it takes. To add a kernel, add its cases to a file of bench/gpu/cases, by operation; a
new file's `cases` goes into TABLE. Whatever body the kernel's entry point picks on the device is what is measured.
"""

from collections.abc import Callable
from pathlib import Path

from bench.gpu.cases import attention, layers, rounds, vocabulary
from bench.gpu.contract import Case

TABLE: tuple[Callable[[bool], list[Case]], ...] = (rounds.cases, vocabulary.cases, attention.cases, layers.cases)
KERNELS = Path(__file__).parents[2] / "kernels"


def all_cases(*, is_dry_run: bool) -> list[Case]:
    """Return every case, for a dry run at sizes that a CPU does at once."""
    return [case for cases in TABLE for case in cases(is_dry_run)]


def unchecked_modules(cases: list[Case], folder: Path = KERNELS) -> list[str]:
    """Return the modules of kernels/ that define Triton kernels of which no case is."""
    checked = {case.module for case in cases}
    with_kernels = {path.stem for path in folder.glob("*.py") if "@jit(" in path.read_text(encoding="utf-8")}
    return sorted(with_kernels - checked)
