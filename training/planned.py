"""Build a pair as a plan in JSON says: what a process is given that starts the trainer as its child.

    python -m training.planned plan.json

The file holds a `training.demo.Plan`; a field it does not name keeps its default. A run that is stopped goes on, with
the same plan, from its last checkpoint.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import msgspec
import torch

from core.errors import ConfigError, SpecdError
from training.demo import Plan, build


def read_plan(path: Path) -> Plan:
    """Read a plan; raises ConfigError for a file that holds none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Plan, dec_hook=_as_path)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"{path} holds no plan of a build: {error}") from error


def _as_path(kind: type, value: Any) -> Path:
    if kind is not Path or not isinstance(value, str):
        raise NotImplementedError(f"{kind} is not written in plans")
    return Path(value)


def main() -> int:
    """Read the command line and build; returns the exit status."""
    parser = argparse.ArgumentParser(description="Build a target and its drafter as a plan says.")
    parser.add_argument("plan", type=Path)
    parser.add_argument("--threads", type=int, default=2, help="torch threads on the CPU (default %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        build(read_plan(arguments.plan))
    except SpecdError as error:
        print(f"training: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
