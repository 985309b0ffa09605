"""The stage that reads what the others wrote: figures, and a short report that says which bars were met.

It needs no device. What was not measured is said to be so.
"""

import argparse
import sys
from pathlib import Path

from bench.gpu.bars import all_bars
from bench.gpu.drawing import draw_all
from bench.gpu.results import StageResults, read_results
from core.errors import SpecdError

STAGES = ("numerics", "kernels", "step", "round", "transformers", "train", "curve")
REPORT = "report.md"
DRY = "**A dry run on the CPU: nothing here was measured, and no number in these files says anything of a GPU.**"


def main() -> int:
    """Read the command line and write the report; returns the exit status."""
    parser = argparse.ArgumentParser(description="Write the report of bench.gpu.")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=420.0, help="not needed here")
    parser.add_argument("--dry-run", action="store_true", help="the results are those of a dry run")
    arguments = parser.parse_args()
    try:
        path = write_report(arguments.output)
    except SpecdError as error:
        print(f"bench.gpu: {error}", file=sys.stderr)
        return 2
    print(f"  wrote {path}")
    return 0


def write_report(folder: Path) -> Path:
    """Write figures and report beside the results; raises SpecdError if there are none, or of more than one device."""
    results = {stage: found for stage in STAGES if (found := read_results(folder, stage)) is not None}
    if not results:
        raise SpecdError(f"{folder} holds no results; run the other stages first")
    devices = {(one.circumstances.device, one.circumstances.is_dry_run) for one in results.values()}
    if len(devices) > 1:
        named = ", ".join(sorted(device for device, _ in devices))
        raise SpecdError(f"{folder} holds results of different devices ({named}); a report is of one")
    is_dry_run = devices.pop()[1]
    figures = [] if is_dry_run else draw_all(results, folder)
    path = folder / REPORT
    path.write_text("\n".join(report_lines(results, figures)) + "\n", encoding="utf-8")
    return path


def report_lines(results: dict[str, StageResults], figures: list[Path]) -> list[str]:
    """Return the report in Markdown, line by line."""
    told = next(iter(results.values())).circumstances
    lines = ["# specd on a GPU", ""]
    if told.is_dry_run:
        lines += [DRY, ""]
    lines += [f"Device: {told.device}. Machine: {told.machine}.", ""]
    lines += ["Versions: " + ", ".join(f"{name} {version}" for name, version in told.versions.items()) + ".", ""]
    lines += ["| bar | verdict | found |", "|---|---|---|"]
    lines += [f"| {bar.what} | **{bar.verdict}** | {bar.found} |" for bar in all_bars(results)]
    lines += ["", "| stage | done | failed | not available | left |", "|---|---|---|---|---|"]
    for stage in STAGES:
        lines.append(stage_line(stage, results.get(stage)))
    reasons = [
        f"- `{stage}` {key}: {entry.status}: {entry.reason}"
        for stage, one in results.items()
        for key, entry in one.entries.items()
        if entry.reason
    ]
    if reasons:
        lines += ["", "## What there are no numbers for", "", *reasons]
    if figures:
        lines += ["", "## Figures", "", *(f"![{figure.stem}]({figure.name})" for figure in figures)]
    return lines


def stage_line(stage: str, results: StageResults | None) -> str:
    """Return a stage's row: how many of its measurements came to what."""
    if results is None:
        return f"| {stage} | not run | | | |"
    counts = [
        sum(entry.status == status for entry in results.entries.values())
        for status in ("done", "failed", "not available")
    ]
    return f"| {stage} | {' | '.join(map(str, counts))} | {len(results.left)} |"


if __name__ == "__main__":
    raise SystemExit(main())
