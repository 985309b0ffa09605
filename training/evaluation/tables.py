"""A report as tables: for the terminal, and in Markdown in the form of the paper's Table 1."""

from collections.abc import Iterator, Sequence

from msgspec import Struct
from rich.table import Table

from core.statistics import Interval
from training.evaluation.report import ALL, CALIBRATED, RAW, Cell, Report, Share

NOTHING = "-"
Texts = tuple[str, ...]


class PlainTable(Struct, frozen=True):
    """A titled table of texts, a note on how to read it, and how many columns at the left are names."""

    title: str
    note: str
    columns: Texts
    rows: tuple[Texts, ...]
    num_names: int = 1


def rich_table(table: PlainTable) -> Table:
    """Return a table for the terminal."""
    made = Table(title=table.title, title_justify="left", caption=table.note, caption_justify="left")
    for place, column in enumerate(table.columns):
        made.add_column(column, justify="left" if place < table.num_names else "right", no_wrap=place < table.num_names)
    for row in table.rows:
        made.add_row(*row)
    return made


def markdown_table(table: PlainTable) -> str:
    """Return a table in Markdown under a heading."""
    marks = ["---" if place < table.num_names else "---:" for place in range(len(table.columns))]
    lines = [f"| {' | '.join(cells)} |" for cells in (table.columns, marks, *table.rows)]
    return "\n".join([f"### {table.title}", "", table.note, "", *lines, ""])


def tables(report: Report) -> Iterator[PlainTable]:
    """Yield every table that the report has numbers for."""
    for temperature in dict.fromkeys(cell.temperature for cell in report.cells):
        cells = [cell for cell in report.cells if cell.temperature == temperature]
        yield _lengths(report, cells, temperature)
        if rows := tuple(_difference_rows(report, temperature)):
            yield PlainTable(
                f"Differences of accepted length, temperature {temperature:g}",
                "First drafter less the second on the same prompts, with 95 % intervals over prompts; * excludes zero.",
                ("drafters", *_tasks(cells)),
                rows,
            )
        yield _conditional(cells, temperature)
        yield _confidence(cells, temperature)
    yield from _right(report)
    yield from _sweep(report)
    yield from _contexts(report)
    yield from _speed(report)
    yield from _prefix_hits(report)


def shown(interval: Interval | None, digits: int = 2) -> str:
    """Return an interval as text."""
    if interval is None:
        return NOTHING
    return f"{interval.estimate:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def percent(share: Share) -> str:
    """Return a share as text."""
    return f"{100 * share.part / share.whole:.0f} % ({share.part}/{share.whole})" if share.whole else NOTHING


def _lengths(report: Report, cells: Sequence[Cell], temperature: float) -> PlainTable:
    tasks, counted = _tasks(cells), "whole answers" if temperature else "up to the first repeated 12-gram"
    rows = []
    for drafter, width in report.max_drafts.items():
        own = {cell.task: cell for cell in cells if cell.drafter == drafter}
        rows.append((drafter, str(width), *(shown(own[task].acceptance.length) for task in tasks)))
    prompts = {cell.task: cell.acceptance.num_prompts for cell in cells}
    note = (
        f"Tokens per round of verification, the target's own included (tau), every draft verified; {counted}. 95 % "
        f"intervals over prompts ({', '.join(f'{task} {prompts[task]}' for task in tasks)})."
    )
    return PlainTable(
        f"Accepted length, temperature {temperature:g}", note, ("drafter", "G", *tasks), tuple(rows), num_names=2
    )


def _difference_rows(report: Report, temperature: float) -> Iterator[Texts]:
    found = [each for each in report.differences if each.temperature == temperature]
    tasks = _tasks([cell for cell in report.cells if cell.temperature == temperature])
    for pair in dict.fromkeys((each.drafter, each.other) for each in found):
        own = {each.task: each.length for each in found if (each.drafter, each.other) == pair}
        cells = [
            shown(length) + (" *" if length and (length.low > 0 or length.high < 0) else "")
            for length in (own.get(task) for task in tasks)
        ]
        yield (f"{pair[0]} - {pair[1]}", *cells)


def _conditional(cells: Sequence[Cell], temperature: float) -> PlainTable:
    widest = max((sum(map(bool, cell.acceptance.conditional)) for cell in cells), default=0)
    rows = []
    for cell in cells:
        values = [f"{each.estimate:.3f}" if each else NOTHING for each in cell.acceptance.conditional[:widest]]
        rows.append((cell.task, cell.drafter, *values, *[""] * (widest - len(values))))
    return PlainTable(
        f"Conditional acceptance by position, temperature {temperature:g}",
        "Share of drafts kept among those whose predecessors were all kept.",
        ("task", "drafter", *(str(place + 1) for place in range(widest))),
        tuple(sorted(rows, key=lambda row: _tasks(cells).index(row[0]))),
        num_names=2,
    )


def _confidence(cells: Sequence[Cell], temperature: float) -> PlainTable:
    rows = [
        (
            cell.task,
            cell.drafter,
            name,
            f"{100 * judged.error:.1f} %",
            f"{100 * judged.plain_error:.1f} %",
            NOTHING if judged.auc is None else f"{judged.auc:.3f}",
            f"{judged.brier:.3f}",
            f"{judged.length_ratio:.3f}",
        )
        for cell in cells
        for name in (RAW, CALIBRATED)
        if (judged := cell.confidence.get(name))
    ]
    return PlainTable(
        f"Confidence, temperature {temperature:g}",
        "Predicted survival of the first k drafts against what happened, means over k. ECE: 15 bins of equal mass, "
        "debiased; ECE 20: DeepSpec's, 20 bins of equal width. AUC 0.5 is no ranking at all, Brier 0 is best; length: "
        "predicted accepted length over observed.",
        ("task", "drafter", "map", "ECE", "ECE 20", "AUC", "Brier", "length"),
        tuple(sorted(rows, key=lambda row: _tasks(cells).index(row[0]))),
        num_names=3,
    )


def _right(report: Report) -> Iterator[PlainTable]:
    judged = [cell for cell in report.cells if cell.right]
    if not judged:
        return
    kinds = list(dict.fromkeys(kind for cell in judged for kind in cell.right))
    yield PlainTable(
        "Right answers",
        "Numbers are compared, functions run against tests. Drafters do not change the law of answers: differences "
        "between them are chance.",
        ("task", "T", "drafter", *(kind or "right" for kind in kinds)),
        tuple(
            (
                cell.task,
                f"{cell.temperature:g}",
                cell.drafter,
                *(percent(cell.right[kind]) if kind in cell.right else NOTHING for kind in kinds),
            )
            for cell in judged
        ),
        num_names=3,
    )


def _sweep(report: Report) -> Iterator[PlainTable]:
    points = [point for point in report.sweep if point.task == ALL] or report.sweep
    if points:
        yield PlainTable(
            "Threshold sweep",
            "Drafts are verified up to the first whose confidence is below the threshold. Verified: drafts per round; "
            "kept: share of verified tokens, anchors included, that were kept. By task in the JSON and the figure.",
            ("task", "drafter", "T", "threshold", "accepted length", "verified", "kept"),
            tuple(
                (
                    point.task,
                    point.drafter,
                    f"{point.temperature:g}",
                    f"{point.threshold:g}",
                    shown(point.length),
                    f"{point.verified:.2f}",
                    f"{100 * point.share:.1f} %",
                )
                for point in points
            ),
            num_names=3,
        )


def _contexts(report: Report) -> Iterator[PlainTable]:
    if not report.contexts:
        return
    spans = sorted({(cell.low, cell.high) for cell in report.contexts})
    found = {(cell.task, cell.drafter, cell.temperature, cell.low): cell for cell in report.contexts}
    yield PlainTable(
        "Accepted length by context",
        f"Tokens per round by the tokens before the round; the model's limit is {report.max_model_len}.",
        ("task", "T", "drafter", *(f"{low}-{high - 1}" for low, high in spans)),
        tuple(
            (
                task,
                f"{temperature:g}",
                drafter,
                *(
                    shown(cell.length) if (cell := found.get((task, drafter, temperature, low))) else NOTHING
                    for low, _ in spans
                ),
            )
            for task, drafter, temperature in dict.fromkeys(key[:3] for key in found)
        ),
        num_names=3,
    )


def _speed(report: Report) -> Iterator[PlainTable]:
    if report.speed:
        yield PlainTable(
            "Speed of one user",
            "Tokens/s after the first token, answered alone, by turns with plain decoding in the same dtype; the ratio "
            "with its 95 % interval over prompts.",
            ("task", "T", "drafter", "policy", "prompts", "tokens/s", "off tokens/s", "ratio to off"),
            tuple(
                (
                    row.task,
                    f"{row.temperature:g}",
                    row.drafter,
                    row.policy,
                    str(row.num_prompts),
                    f"{row.tokens_per_s:.0f}",
                    f"{row.off_tokens_per_s:.0f}",
                    shown(row.ratio),
                )
                for row in sorted(report.speed, key=lambda row: _tasks(report.cells).index(row.task))
            ),
            num_names=4,
        )


def _prefix_hits(report: Report) -> Iterator[PlainTable]:
    cells = [cell for cell in report.cells if len(cell.prefix_hits) > 1]
    if not cells:
        return
    most = max(len(cell.prefix_hits) for cell in cells)
    yield PlainTable(
        "Prefix hits by turn",
        "Share of the prompt's tokens that the prefix cache held.",
        ("task", "T", "drafter", *(f"turn {turn + 1}" for turn in range(most))),
        tuple(
            (
                cell.task,
                f"{cell.temperature:g}",
                cell.drafter,
                *(percent(share) for share in cell.prefix_hits),
                *[""] * (most - len(cell.prefix_hits)),
            )
            for cell in cells
        ),
        num_names=3,
    )


def _tasks(cells: Sequence[Cell]) -> list[str]:
    return list(dict.fromkeys(cell.task for cell in cells))
