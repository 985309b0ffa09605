"""Write a run down: JSON with all that is needed to judge it, and a table to read."""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from rich.table import Table

from bench.machine import describe_machine
from bench.summary import Row
from core.statistics import Interval

PACKAGES = ("specd", "torch", "numpy")


def describe_run(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """Return where, when, with what and how this process measured."""
    return {
        "machine": describe_machine(),
        "versions": {name: version(name) for name in packages},
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write_json(path: Path, report: Mapping[str, Any]) -> None:
    """Write a report; numbers that are none (nan) become null. Makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = msgspec.json.decode(msgspec.json.encode(report))
    path.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")


def load_tables(rows: Sequence[Row]) -> list[Table]:
    """Return one table per load."""
    return [
        _load_table([row for row in rows if (row.concurrency, row.temperature) == load], load)
        for load in dict.fromkeys((row.concurrency, row.temperature) for row in rows)
    ]


def _load_table(rows: Sequence[Row], load: tuple[int, float]) -> Table:
    table = Table(
        title=f"{load[0]} at once, temperature {load[1]:g}", title_justify="left", box=None, padding=(0, 1, 0, 0)
    )
    table.add_column("mode", no_wrap=True)
    for heading in ("tokens/s", "per user", "ratio to off", "first ms", "gap ms", "tau", "verified"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.mode,
            f"{row.tokens_per_s.estimate:.0f}",
            f"{row.tokens_per_s_per_user:.0f}",
            shown_interval(row.ratio),
            f"{row.first_token_ms[0]:.0f}" if row.first_token_ms else "-",
            f"{row.gap_ms[0]:.1f}" if row.gap_ms else "-",
            *(_shown(value) for value in (row.accepted_length, row.verify_length)),
        )
    return table


def shown_interval(interval: Interval | None) -> str:
    """Return an interval as text, "-" for none."""
    return f"{interval.estimate:.2f} [{interval.low:.2f}, {interval.high:.2f}]" if interval else "-"


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
