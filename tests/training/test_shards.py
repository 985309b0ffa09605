"""What is prepared is read back as it was, in any order and from any place, and damage is told."""

import msgspec
import numpy as np
import pytest

from core.errors import DataError
from training.data.shard_writer import ShardWriter
from training.shards import INDEX_FILE, Document, read_shards


def documents(count):
    rng = np.random.default_rng(0)
    return [
        Document(
            rng.integers(0, 1000, 3 + number, dtype=np.int32),
            rng.random(3 + number) < 0.5,
            ("math", "chat")[number % 2],
        )
        for number in range(count)
    ]


def write(folder, made, shard_tokens=40, made_from="a"):
    writer = ShardWriter(folder, made_from, "t", shard_tokens)
    for record, one in enumerate(made):
        if record > writer.last_record:
            writer.add(record, [one])
    return writer


def as_lists(read):
    return [(one.tokens.tolist(), one.mask.tolist(), one.kind) for one in read]


def test_documents_come_back_as_they_were(tmp_path):
    made = documents(20)
    write(tmp_path, made).finish()
    read = read_shards(tmp_path)
    assert len(read.index.shards) > 2
    assert as_lists(read) == as_lists(made)
    assert len(read) == 20
    assert read.index.num_masked == sum(int(one.mask.sum()) for one in made)


def test_a_shuffled_pass_has_each_document_once_and_goes_on_where_it_stopped(tmp_path):
    made = documents(20)
    write(tmp_path, made).finish()
    read = read_shards(tmp_path)
    whole = as_lists(read.shuffled(3))
    assert whole != as_lists(made)
    assert sorted(whole) == sorted(as_lists(made))
    for start in (1, 7, 19, 20):
        assert as_lists(read.shuffled(3, start)) == whole[start:]


def test_what_a_stop_leaves_is_readable_and_gone_on_with(tmp_path):
    made = documents(20)
    write(tmp_path, made[:13])
    left = read_shards(tmp_path)
    assert not left.index.is_complete
    assert as_lists(left) == as_lists(made[: len(left)])
    assert 0 < len(left) <= 13
    write(tmp_path, made).finish()
    assert as_lists(read_shards(tmp_path)) == as_lists(made)


def test_a_full_disk_costs_no_shard_that_was_written(tmp_path, monkeypatch):
    made = documents(20)
    write(tmp_path, made[:13])
    before = (tmp_path / INDEX_FILE).read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataError, match="No space left"):
        write(tmp_path, made).finish()
    assert (tmp_path / INDEX_FILE).read_bytes() == before
    assert not list(tmp_path.glob("*.part"))


def test_a_folder_made_from_something_else_is_not_gone_on_with(tmp_path):
    write(tmp_path, documents(5)).finish()
    with pytest.raises(DataError, match="other sources"):
        ShardWriter(tmp_path, "b", "t")


def test_a_damaged_shard_and_a_foreign_index_are_told(tmp_path):
    with pytest.raises(DataError, match="specd data prepare"):
        read_shards(tmp_path)
    write(tmp_path, documents(5)).finish()
    read = read_shards(tmp_path)
    shard = tmp_path / read.index.shards[0].file
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x07")
    with pytest.raises(DataError, match="hash differs"):
        list(read)
    newer = msgspec.structs.replace(read.index, version=2)
    (tmp_path / INDEX_FILE).write_bytes(msgspec.json.encode(newer))
    with pytest.raises(DataError, match="version 2"):
        read_shards(tmp_path)
