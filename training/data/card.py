"""The data card: what a prepared folder was made from, what is in it, what was left out and why; JSON and Markdown."""

from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import msgspec
from msgspec import Struct

from training.data.shard_writer import write_durable
from training.shards import ShardIndex, read_shards


class Source(Struct, frozen=True):
    """One file that was read."""

    path: str
    num_bytes: int
    sha256: str


class KindCounts(Struct):
    """Documents and tokens of one kind, those to learn apart; mutable while they are counted."""

    documents: int = 0
    tokens: int = 0
    learnt: int = 0


class Part(Struct, frozen=True):
    """Train or held out. lengths counts documents by the power of two that their tokens do not exceed."""

    num_documents: int
    num_tokens: int
    num_learnt: int
    num_shards: int
    kinds: dict[str, KindCounts]
    lengths: dict[int, int]
    dropped: dict[str, int]

    @classmethod
    def of(cls, folder: Path, index: ShardIndex) -> "Part":
        """Count what is in a folder, a shard at a time."""
        kinds: dict[str, KindCounts] = {}
        lengths: Counter[int] = Counter()
        for document in read_shards(folder):
            counts = kinds.setdefault(document.kind, KindCounts())
            counts.documents += 1
            counts.tokens += len(document.tokens)
            counts.learnt += int(document.mask.sum())
            lengths[1 << (len(document.tokens) - 1).bit_length()] += 1
        sums = (index.num_documents, index.num_tokens, index.num_masked, len(index.shards))
        return cls(*sums, dict(sorted(kinds.items())), dict(sorted(lengths.items())), index.dropped)


class Card(Struct, frozen=True):
    """All of it. choices are the flags; target has the hashes of what rendered the text."""

    sources: tuple[Source, ...]
    choices: Struct
    target: Mapping[str, str]
    num_records: int
    bad_lines: Mapping[str, int]
    duplicates: Mapping[str, int]
    parts: Mapping[str, Part]
    warnings: tuple[str, ...] = ()
    specd: str = version("specd")


def write_card(folder: Path, card: Card) -> None:
    """Write card.json and card.md. Raises DataError."""
    write_durable(folder / "card.json", msgspec.json.format(msgspec.json.encode(card), indent=1) + b"\n")
    write_durable(folder / "card.md", as_markdown(card).encode())


def as_markdown(card: Card) -> str:
    """Return the card as people read it."""
    lines = ["# Data card", "", f"Made by specd {card.specd}: {card.num_records} records of {len(card.sources)} files."]
    lines += ["", *(f"- Note: {warning}." for warning in card.warnings)] if card.warnings else []
    for name, part in card.parts.items():
        lines += ["", f"## {name}", ""]
        lines += [f"{part.num_documents} documents, {part.num_tokens} tokens, {part.num_learnt} of them to learn, "]
        lines[-1] += f"in {part.num_shards} shards."
        lines += _table(
            ("kind", "documents", "tokens", "to learn"),
            [(kind, counts.documents, counts.tokens, counts.learnt) for kind, counts in part.kinds.items()],
        )
        lines += _table(
            ("tokens, at most", "documents", ""),
            [(most, count, "#" * _bar(count, part.lengths)) for most, count in part.lengths.items()],
        )
    dropped = Counter(card.duplicates)
    for part in card.parts.values():
        dropped.update(part.dropped)
    bad = [(f"bad line in {path}", count) for path, count in card.bad_lines.items()]
    lines += ["", "## Left out", *_table(("why", "records"), [*sorted(dropped.items()), *bad])]
    lines += [
        "",
        "## Made from",
        *_table(("file", "bytes", "sha256"), [msgspec.structs.astuple(one) for one in card.sources]),
    ]
    lines += _table(("target", "sha256"), list(card.target.items()))
    lines += _table(("choice", "value"), list(msgspec.structs.asdict(card.choices).items()))
    return "\n".join(lines) + "\n"


def _bar(count: int, lengths: Mapping[int, int]) -> int:
    return -(-40 * count // max(lengths.values()))


def _table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> list[str]:
    if not rows:
        return []
    lines = ["", _row(head), "|" + "---|" * len(head)]
    return lines + [_row(row) for row in rows]


def _row(cells: tuple[object, ...]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
