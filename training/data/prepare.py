"""`specd data prepare`: sources to shards of tokens and loss masks, train and held out, with a data card.

Two passes over the sources. The first hashes every record: exact and near duplicates are dropped, and how a record
opens (all that comes before its first answer) decides its part, so that no conversation is in both. The second renders
and writes. Both parts are gone on with after a stop, at the record after the last whole shard of each. The records held
out are written once more as text, for evaluation and calibration (training/data/held_out_lines.py).
"""

import hashlib
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from models.tokenizer import Tokenizer
from training.data.card import Card, Part, Source, write_card
from training.data.held_out_lines import HELD_OUT_FILE, HeldOutLines
from training.data.lines import MAX_LINE_BYTES, Problems, jsonl_files
from training.data.near_duplicates import NearDuplicates, normalised
from training.data.records import Record, read_records
from training.data.rendering import Dropped, Rendering
from training.data.shard_writer import SHARD_TOKENS, ShardWriter

PARTS = ("train", "held_out")
# Counts up when the same sources and choices come to give something else: what earlier rules began is not gone on with.
RULES = 2
# Of a prompt or a turn, which may be mostly what many share, such as a document asked about, its end alone is compared.
PROMPT_TAIL_CHARS = 256


class Choices(Struct, frozen=True):
    """What is made of the sources; all of it but max_line_bytes and shard_tokens changes what comes out.

    held_out        share of openings that are held out
    near_duplicate  Jaccard similarity from which on a record is dropped for an earlier one; above 1 keeps all
    max_len         tokens at which a document is cut
    min_written     fewest tokens to learn that a document may have
    """

    held_out: float = 0.05
    near_duplicate: float = 0.8
    max_len: int = 4096
    min_written: int = 2
    max_line_bytes: int = MAX_LINE_BYTES
    shard_tokens: int = SHARD_TOKENS


class Look(Struct):
    """What the first pass found; arrays by the record's number. Mutable until it has ended.

    num_foreign records have answers that are not known to be the target's own.
    """

    openings: "array[int]"
    is_duplicate: bytearray
    near: np.ndarray
    num_foreign: int = 0

    @property
    def num_records(self) -> int:
        """Records of all sources."""
        return len(self.openings)


def prepare(
    sources: list[Path],
    target: Path,
    output: Path,
    choices: Choices,
    tell: Callable[[str], None],
    *,
    are_fatal: bool = False,
) -> Card:
    """Write `output`/train, /held_out, held_out.jsonl, card.md and card.json; tell gets lines of text.

    Raises DataError.
    """
    # What an earlier run wrote is no source, should `output` lie within one.
    own = (output / HELD_OUT_FILE).resolve()
    files = [path for path in jsonl_files(sources) if path.resolve() != own]
    tokenizer = Tokenizer(target)
    rendering = Rendering(tokenizer, choices.max_len, choices.min_written)
    tokenizer_sha256 = _sha256(target / "tokenizer.json")
    tell(f"reading {len(files)} files")
    read_from = [Source(str(path), path.stat().st_size, _sha256(path)) for path in files]
    template = hashlib.sha256((tokenizer.chat_template or "").encode()).hexdigest()
    made_from = _hash_of([[one.sha256 for one in read_from], tokenizer_sha256, template, _what_counts(choices), RULES])
    writers = [ShardWriter(output / part, made_from, tokenizer_sha256, choices.shard_tokens) for part in PARTS]
    problems = Problems(tell, are_fatal=are_fatal)
    look = _look(read_records(files, problems, choices.max_line_bytes), rendering, output, choices)
    tell(
        f"{look.num_records} records, {problems.num} bad lines, {sum(look.is_duplicate)} duplicates, "
        f"{int(look.near.sum())} near-duplicates"
    )
    # Bad lines were told once.
    records = read_records(files, Problems(lambda _: None), choices.max_line_bytes)
    with HeldOutLines(output) as lines:
        _write(records, look, rendering, writers, lines, choices)
    parts = {name: Part.of(output / name, writer.finish()) for name, writer in zip(PARTS, writers, strict=True)}
    card = Card(
        tuple(read_from),
        choices,
        {"tokenizer.json": tokenizer_sha256, "chat_template": template},
        look.num_records,
        dict(problems.counts),
        {"duplicate": sum(look.is_duplicate), "near-duplicate": int(look.near.sum())},
        parts,
        warnings=_warnings(writers, parts, look),
    )
    write_card(output, card)
    for warning in card.warnings:
        tell(f"note: {warning}")
    return card


def _look(records: Iterator[Record], rendering: Rendering, output: Path, choices: Choices) -> Look:
    look = Look(array("Q"), bytearray(), np.zeros(0, dtype=bool))
    seen: set[bytes] = set()
    compared: list[int] = []
    near = NearDuplicates(output / ".signatures.part")
    try:
        for number, record in enumerate(records):
            look.openings.append(_number_of(rendering.opening(record)))
            look.num_foreign += not record.exchanges and any(one.role == "assistant" for one in record.messages)
            content = _digest(content_of(record), 16)
            look.is_duplicate.append(content in seen)
            if content not in seen and choices.near_duplicate <= 1:
                near.add(_compared_text(record), _kin(record))
                compared.append(number)
            seen.add(content)
        found = near.found(choices.near_duplicate)
    finally:
        near.close()
    look.near = np.zeros(look.num_records, dtype=bool)
    look.near[compared] = found
    return look


def _write(
    records: Iterator[Record],
    look: Look,
    rendering: Rendering,
    writers: list[ShardWriter],
    lines: HeldOutLines,
    choices: Choices,
) -> None:
    for number, record in zip(range(look.num_records), records, strict=False):
        if look.is_duplicate[number] or look.near[number]:
            continue
        is_held_out = look.openings[number] < choices.held_out * 2**64
        writer = writers[is_held_out]
        is_written = number <= writer.last_record
        # The lines are written from their beginning, for which it must be known what gives documents.
        if is_written and not is_held_out:
            continue
        try:
            documents = rendering.documents(record)
        except Dropped as dropped:
            if not is_written:
                writer.drop(number, str(dropped))
            continue
        if not is_written:
            writer.add(number, documents)
        if is_held_out:
            lines.add(record)


def content_of(record: Record) -> str:
    """Return all that a record says, in one text."""
    turns = [f"{one.role}\n{one.content}\n{msgspec.json.encode(one.extra).decode()}" for one in record.messages]
    return "\n".join([*turns, record.text, *(one.answer for one in record.exchanges)])


def _compared_text(record: Record) -> str:
    """Return what near-duplicates are told by: what the target says, and how what it was asked ends."""
    if record.messages:
        asked = {"user": slice(-PROMPT_TAIL_CHARS, None), "assistant": slice(None)}
        return "\n".join(one.content[asked[one.role]] for one in record.messages if one.role in asked)
    if record.shape == "text":
        return record.text
    return "\n".join([record.text[-PROMPT_TAIL_CHARS:], *(one.answer for one in record.exchanges)])


def _kin(record: Record) -> int:
    """Return a number that the samples of one record share; 0 where it is not known to have any."""
    return int.from_bytes(_digest(record.sample_of, 8), "big") if record.sample_of else 0


def _warnings(writers: list[ShardWriter], parts: dict[str, Part], look: Look) -> tuple[str, ...]:
    said = []
    if num_split := sum(writer.index.num_split for writer in writers):
        said.append(
            f"{num_split} conversations became a document per answer: the chat template renders earlier turns "
            "otherwise once later ones follow, or the target read its answers otherwise than it had written them"
        )
    if look.num_foreign:
        said.append(
            f"the answers of {look.num_foreign} records were not written by the target: a drafter learns most "
            "from the target's own (`specd data generate`)"
        )
    if look.num_records >= 20 and not all(part.num_documents for part in parts.values()):
        said.append("one part has no documents: all records open alike, or the share held out is too small")
    return tuple(said)


def _what_counts(choices: Choices) -> list[float]:
    return [choices.held_out, choices.near_duplicate, choices.max_len, choices.min_written, choices.max_line_bytes]


def _number_of(opening: str) -> int:
    return int.from_bytes(_digest(normalised(opening), 8), "big")


def _digest(text: str, size: int) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=size).digest()


def _hash_of(values: object) -> str:
    return hashlib.sha256(msgspec.json.encode(values)).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
