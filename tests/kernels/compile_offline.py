"""Compile every kernel to machine code for three GPUs, without one, and print what each needs, as JSON lines.

A script and not a test: kernels cannot be compiled in a process where TRITON_INTERPRET is set.

    python -m tests.kernels.compile_offline [--quick] [--table] [--kernel PREFIX] [--count PREFIX]

--table prints the Markdown table of docs/kernels.md in place of JSON, --quick leaves out all but what every run of the
tests compiles, --kernel compiles only the kernels whose names begin so. A table counts instructions; without it those
of kernels whose names begin as --count says are counted.
"""

import argparse
import json

from tests.kernels import compiled_layers, compiled_vocabulary
from tests.kernels.compile_case import KINDS

CASES = [*compiled_layers.CASES, *compiled_vocabulary.CASES]
HEADINGS = ("kernel", "target", "registers", "shared", "spilled", "instructions", *KINDS)


def row(need) -> str:
    """Return the line of the table for what a kernel needs."""
    mix = need["mix"]
    cells = (f"`{need['kernel']}`", *(need[name] for name in HEADINGS[1:5]), mix["all"], *(mix[kind] for kind in KINDS))
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--kernel", default="")
    parser.add_argument("--count")
    arguments = parser.parse_args()
    if arguments.table:
        print("| " + " | ".join(HEADINGS) + " |")
        print("|" + " --- |" * 2 + " ---: |" * (len(HEADINGS) - 2))
    for case in CASES:
        if not case.name.startswith(arguments.kernel) or (arguments.quick and not case.is_quick):
            continue
        counts = arguments.table or (arguments.count is not None and case.name.startswith(arguments.count))
        for target in case.quick_targets if arguments.quick and not arguments.table else case.targets:
            need = case.needs(target, counts=counts)
            print(row(need) if arguments.table else json.dumps(need), flush=True)


if __name__ == "__main__":
    main()
