"""Measure specd on a GPU, stage by stage; each writes what it has as soon as it has it, and a rerun goes on from there.

    python -m bench.gpu --stage numerics --output results/gpu --seconds 420
    python -m bench.gpu --stage all --output results/gpu
    python -m bench.gpu --stage all --output /tmp/dry --dry-run      # the smallest shapes, on the CPU: measures nothing

Every stage is a process of its own, so that one that breaks the device leaves the others be. Standard library only:
what specd needs may have to be unpacked first (`--wheels`).
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import FrameType

from bench.gpu.wheels import DOWNLOAD, NEEDED, NEEDED_TO_DRAW, missing, unpack

ROOT = Path(__file__).parents[2]
RESULTS = Path("bench") / "results" / "gpu"
WHEELS = Path(__file__).parent / "carried"
# In the order in which they are worth their minutes; the report reads what the others wrote.
STAGES = {
    "numerics": "bench.gpu.numerics",
    "kernels": "bench.gpu.kernel_times",
    "step": "bench.gpu.step_times",
    "round": "bench.gpu.round_parts",
    "transformers": "bench.gpu.beside_transformers",
    "train": "bench.gpu.train_pair",
    "curve": "bench.gpu.curve",
    "report": "bench.gpu.report",
}
DRAWING = ("train", "report")
# Exit statuses of a stage (bench/gpu/stage.py).
DONE, STOPPED = 0, 143


def main() -> int:
    """Read the command line and run the stages; returns the worst exit status of them."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description="Measure specd on a GPU, stage by stage.")
    parser.add_argument("--stage", required=True, choices=[*STAGES, "all"])
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of results (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=420.0, help="per stage; a rerun goes on (default %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="the smallest shapes on the CPU: a test, no measurement")
    parser.add_argument("--wheels", type=Path, default=WHEELS, help="folder of wheels (default %(default)s)")
    arguments = parser.parse_args()
    names = list(STAGES) if arguments.stage == "all" else [arguments.stage]
    with tempfile.TemporaryDirectory(prefix="specd-wheels-") as folder:
        site = Path(folder) if unpack(arguments.wheels, Path(folder)) else None
        if lacking := lacking_packages(names, site):
            print(
                f"bench.gpu: not installed here: {', '.join(lacking)}. On a machine with an index, run\n"
                f"  {DOWNLOAD} {shlex.join(lacking)}\nand give the folder with --wheels",
                file=sys.stderr,
            )
            return 2
        return run_stages(names, arguments, site)


def run_stages(names: list[str], arguments: argparse.Namespace, site: Path | None) -> int:
    """Run stages one after the other until all are through or a signal ends one; returns the worst exit status."""
    worst = DONE
    for name in names:
        worst = max(worst, run_stage(name, arguments, site))
        if worst == STOPPED:
            break
    return worst


def lacking_packages(stages: list[str], site: Path | None) -> list[str]:
    """Return what the stages need and nobody has."""
    drawing = NEEDED_TO_DRAW if any(name in DRAWING for name in stages) else {}
    return missing(NEEDED | drawing, site)


def run_stage(name: str, arguments: argparse.Namespace, site: Path | None) -> int:
    """Run one stage in a process of its own, hand it the signal if one asks us to end, and return its exit status."""
    command = [sys.executable, "-m", STAGES[name], "--output", str(arguments.output.resolve())]
    command += ["--seconds", str(arguments.seconds), *(["--dry-run"] if arguments.dry_run else [])]
    paths = [str(ROOT), *([str(site)] if site else []), os.environ.get("PYTHONPATH", "")]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    print(f"stage {name}", flush=True)
    child = subprocess.Popen(command, env=environ)
    signals: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - what signal handlers are given
        signals.append(number)
        child.send_signal(signal.SIGTERM)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        status = child.wait()
        if signals and status == DONE:
            # It came when the child had nothing left to do: the next stage has.
            return STOPPED
        # A child that a signal killed says so by a negative number; shells say 128 more.
        return status if status >= 0 else 128 - status
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    raise SystemExit(main())
