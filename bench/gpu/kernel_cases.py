"""The table of kernels that are checked and timed on the device, each called as the engine calls it.

A case is a kernel's contract with inputs: what to call, what a twin in float64 says of the result, how many bytes and
operations the least work for it takes. To add a kernel, add its cases to a file of bench/gpu/cases, by operation; a
new file's `cases` goes into TABLE. Whatever body the kernel's entry point picks on the device is what is measured.
"""

import ast
from collections.abc import Callable
from pathlib import Path

from bench.gpu.cases import attention, head, layers, network, rounds, vocabulary
from bench.gpu.contract import Case

TABLE: tuple[Callable[[bool], list[Case]], ...] = (
    rounds.cases,
    vocabulary.cases,
    head.cases,
    attention.cases,
    layers.cases,
    network.cases,
)
KERNELS = Path(__file__).parents[2] / "kernels"


def all_cases(*, is_dry_run: bool) -> list[Case]:
    """Return every case, for a dry run at sizes that a CPU does at once."""
    return [case for cases in TABLE for case in cases(is_dry_run)]


def unchecked_modules(cases: list[Case], folder: Path = KERNELS) -> list[str]:
    """Return the modules of kernels/ that define Triton kernels and that no case calls, or calls through another."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.py")}
    checked: set[str] = set()
    left = {case.module for case in cases} & texts.keys()
    while left:
        checked |= left
        left = {name for module in left for name in _imported(texts[module])} & texts.keys() - checked
    return sorted(name for name, text in texts.items() if "@jit(" in text and name not in checked)


def _imported(text: str) -> set[str]:
    """Return the modules of kernels/ that a module there imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module == "kernels":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.removeprefix("kernels."))
    return names
