"""What a step of the demo pair takes now, as a share of what it took at an earlier commit: both by turns, in one run.

    python -m bench.step_before --before COMMIT          writes bench/results/step_before.json

The earlier tree is taken out of the repository's history, and computes with the demo pair of today. Each mode and batch
has a process per tree, which keeps its engine and waits while the other answers the same prompts, in random order. One
thread, temperature 1.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import msgspec
from msgspec import Struct

from bench.report import describe_run, shown_interval, write_json
from bench.summary import paired_ratio
from core.errors import ConfigError
from core.statistics import Interval
from models.folders import DEMO_FOLDER

ROOT = Path(__file__).parents[1]
CHILD = Path(__file__).with_name("stepped_tree.py")
BATCHES, MODES = (1, 16), ("off", "fixed")


class Ratio(Struct, frozen=True):
    """One mode at one batch size: milliseconds of a step before and now, and the ratio of the two with its interval."""

    mode: str
    batch: int
    before_ms: float
    now_ms: float
    ratio: Interval | None


class Tree:
    """A process around the engine of one tree."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        if self._line() != "ready":
            raise ConfigError("the engine of a tree did not start; what it said stands above")

    def step_s(self) -> float:
        """Answer the prompts once and return the seconds of a step."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        seconds, steps, _ = self._line().split()
        return float(seconds) / int(steps)

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def main() -> int:
    """Measure and write the result down; returns 0. Raises ConfigError for a commit that there is not."""
    parser = argparse.ArgumentParser(description="a step of the demo pair now, beside one at an earlier commit")
    parser.add_argument("--before", required=True, metavar="COMMIT")
    parser.add_argument("--rounds", type=int, default=20, help="answers of each tree, per mode and batch")
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results" / "step_before.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        commit = take_out(arguments.before, Path(folder))
        cells = [(mode, batch) for mode in MODES for batch in BATCHES]
        ratios = [measure(mode, batch, Path(folder), arguments.rounds) for mode, batch in cells]
    for one in ratios:
        steps = f"{one.before_ms:6.2f} -> {one.now_ms:6.2f} ms"
        print(f"{one.mode:<6} {one.batch:>3} at once  {steps}  ratio {shown_interval(one.ratio)}")
    write_json(arguments.output, describe_run() | {"before": commit, "ratios": msgspec.to_builtins(ratios)})
    return 0


def take_out(revision: str, folder: Path) -> str:
    """Unpack a commit of this repository into a folder, with the demo pair of today, and return its full name.

    Steps of other weights would be steps of other texts.
    """
    name = subprocess.run(
        ["git", "rev-parse", "--verify", f"{revision}^{{commit}}"],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if name.returncode:
        raise ConfigError(f"{revision!r} is no commit of this repository: {name.stderr.strip()}")
    commit = name.stdout.strip()
    packed = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True)
    with tarfile.open(fileobj=BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
    for part in ("target", "dspark"):
        shutil.copytree(DEMO_FOLDER / part, folder / "models" / "demo" / part, dirs_exist_ok=True)
    return commit


def measure(mode: str, batch: int, before: Path, rounds: int) -> Ratio:
    """Return the ratio of a step's time, from `rounds` answers of each tree by turns."""
    times: dict[Path, list[float]] = {before: [], ROOT: []}
    turn = random.Random(batch)  # noqa: S311
    with running(before, mode, batch) as earlier, running(ROOT, mode, batch) as present:
        for _ in range(rounds):
            pair = [(before, earlier), (ROOT, present)]
            turn.shuffle(pair)
            for folder, tree in pair:
                times[folder].append(tree.step_s())
    earlier_ms, now_ms = (1e3 * sum(times[folder]) / rounds for folder in (before, ROOT))
    return Ratio(mode, batch, earlier_ms, now_ms, paired_ratio(times[ROOT], times[before]))


@contextmanager
def running(folder: Path, mode: str, batch: int) -> Iterator[Tree]:
    """Run the engine of a tree until the block ends."""
    environ = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(folder), "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-P", "-W", "ignore", str(CHILD), mode, str(batch)]
    with subprocess.Popen(
        command, cwd=folder, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Tree(process)
        finally:
            process.kill()


if __name__ == "__main__":
    raise SystemExit(main())
