"""Write a certificate down: a page of Markdown for people, JSON with every line for machines."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.prove.certificate import PLANTED, Line, Summary
from bench.report import describe_run, write_json

NAME = "certificate"


def write_report(folder: Path, summary: Summary, lines: Sequence[Line]) -> tuple[Path, Path]:
    """Write certificate.md and certificate.json into a folder, which is made; return both paths."""
    run = describe_run()
    page, data = folder / f"{NAME}.md", folder / f"{NAME}.json"
    write_json(data, run | {"summary": msgspec.to_builtins(summary), "lines": msgspec.to_builtins(lines)})
    page.write_text(markdown(summary, lines, run), encoding="utf-8")
    return page, data


def markdown(summary: Summary, lines: Sequence[Line], run: dict[str, object]) -> str:
    """Return the page."""
    kind = "full" if summary.is_full else "quick"
    subject = f"the drafter `{summary.drafter}`" if summary.drafter else "specd"
    verdict = "Every check passed." if summary.passes else f"**{summary.num_failed} checks failed.**"
    planted = [line for line in lines if line.section == PLANTED]
    opening = f"{verdict} {summary.num_checks} checks of {subject} in {summary.seconds:.0f} s; see docs/exactness.md."
    parts = [f"# Certificate of exactness ({kind})\n", f"{opening}\n", _facts(summary, run), _sections(lines)]
    parts += [_planted(planted)] if planted else []
    failed = [line for line in lines if not line.outcome.passes]
    if failed:
        parts.append("## What failed\n")
        parts.append("".join(f"- {line.section}: {line.name}: {line.outcome.detail}\n" for line in failed))
    parts.append(f"Rerun it: `{run['command']}`\n")
    return "\n".join(parts)


def _facts(summary: Summary, run: dict[str, object]) -> str:
    versions = run["versions"]
    assert isinstance(versions, dict)
    strength = f"a total variation of {summary.variation:g}, with {summary.draws_per_test} draws each"
    rows = {
        "chi-square tests": f"{summary.num_tests}, each at alpha {summary.alpha:g}",
        "family-wise rate": f"{summary.family_rate:.2%}: the chance that sound code fails any of them",
        "power": f"{summary.power} for any law that is off by {strength}",
        "planted bugs": f"{summary.num_caught} of {summary.num_planted} caught",
        "machine": run["machine"],
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
        "finished": run["finished"],
    }
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows.items())


def _sections(lines: Sequence[Line]) -> str:
    rows = ["## What was checked\n", "| section | checks | passed | nearest to failing | seconds |"]
    rows.append("|---|---|---|---|---|")
    for section in dict.fromkeys(line.section for line in lines):
        own = [line for line in lines if line.section == section]
        passed, seconds = sum(line.outcome.passes for line in own), sum(line.seconds for line in own)
        worst = "" if section == PLANTED else max(own, key=_badness).outcome.detail
        rows.append(f"| {section} | {len(own)} | {passed} | {worst} | {seconds:.1f} |")
    return "\n".join(rows) + "\n"


def _planted(lines: Sequence[Line]) -> str:
    rows = ["## Planted bugs\n", "| bug | caught | how |", "|---|---|---|"]
    caught = {True: "yes", False: "**no**"}
    rows += [f"| {line.name} | {caught[line.outcome.passes]} | {line.outcome.detail} |" for line in lines]
    return "\n".join(rows) + "\n"


def _badness(line: Line) -> float:
    """Return how near a check came to failing: a p-value or total variation is the number its detail begins with."""
    kind, _, rest = line.outcome.detail.partition(" ")
    if kind not in ("p", "TV") or not line.outcome.passes:
        return float(not line.outcome.passes)
    value = float(rest.split(" ")[0].rstrip(","))
    return 1 - value if kind == "p" else value
