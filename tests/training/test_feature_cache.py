"""Features on disk: DeepSpec's format to the byte, gone on with after a stop, and a run on them is the run without."""

import json
import struct

import msgspec
import numpy as np
import pytest
import torch

from core.errors import ConfigError, DataError
from models.load_target import load_frozen
from training.cached_batches import open_cache, write_cache
from training.feature_cache import CacheReader, CacheWriter, Origin, Sample
from training.features import target_states
from training.packed_rows import MaskedText
from training.packing import Rows
from training.recipe import Data, Run
from training.train_drafter import cache_features
from training_pair import TARGET, documents, make_recipe

LAYERS = (1, 3, 5)
ORIGIN = Origin("t", "texts", 48)


def samples(count):
    generator = torch.Generator().manual_seed(0)
    return [
        Sample(
            torch.randint(0, 250, (length,), generator=generator),
            (torch.rand(length, generator=generator) < 0.5).float(),
            torch.randn(length, 12, generator=generator).bfloat16(),
            torch.randn(length, 4, generator=generator).bfloat16(),
        )
        for length in range(3, 3 + count)
    ]


def check(reader, wanted):
    assert len(reader) == len(wanted)
    for number, sample in enumerate(wanted):
        assert all(own.equal(other) for own, other in zip(reader.sample(number), sample, strict=True))


def test_samples_come_back_as_they_were_from_several_shards(tmp_path):
    writer = CacheWriter(tmp_path, "some/target", LAYERS, 4, ORIGIN, shard_bytes=500)
    for sample in samples(12):
        writer.add(sample)
    writer.flush()
    reader = CacheReader(tmp_path)
    assert reader.manifest.num_shards > 2
    check(reader, samples(12))


def test_the_bytes_are_those_of_deepspecs_reader(tmp_path):
    """Read as drafters.md describes the format, by hand."""
    [sample] = samples(1)
    writer = CacheWriter(tmp_path, "some/target", LAYERS, 4, ORIGIN)
    writer.add(sample)
    writer.flush()
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["version"] == 2
    assert manifest["num_samples"] == manifest["num_shards"] == 1
    assert manifest["target_layer_ids"] == [1, 3, 5]
    assert (manifest["hidden_dtype"], manifest["token_dtype"], manifest["mask_dtype"]) == ("bfloat16", "int32", "uint8")
    assert manifest["shards"] == [{"shard_id": 0, "file_name": "shard-00000.bin"}]
    assert manifest["index_record_size"] == (tmp_path / "samples.idx").stat().st_size == 56
    number, shard, length, ids, seen, loss, hidden, last = struct.unpack(
        "<QIIQQQQQ", (tmp_path / "samples.idx").read_bytes()
    )
    assert (number, shard, length) == (0, 0, 3)
    data = (tmp_path / "shard-00000.bin").read_bytes()
    assert (ids, seen, loss, hidden, last, len(data)) == (0, 12, 15, 18, 18 + 72, 18 + 72 + 24)
    assert np.frombuffer(data[:12], "<i4").tolist() == sample.tokens.tolist()
    assert data[12:15] == b"\1\1\1"
    assert list(data[15:18]) == sample.loss_mask.int().tolist()
    wide = np.frombuffer(data[18:90], "<u2").astype(np.uint32) << 16
    assert wide.view(np.float32).tolist() == sample.features.float().flatten().tolist()


@pytest.mark.parametrize("torn", ["shard", "index", "both"])
def test_a_stopped_writer_is_gone_on_with_after_its_last_whole_sample(torn, tmp_path):
    made = samples(9)
    writer = CacheWriter(tmp_path, "t", LAYERS, 4, ORIGIN)
    for sample in made[:6]:
        writer.add(sample)
    if torn != "index":
        shard = tmp_path / "shard-00000.bin"
        shard.write_bytes(shard.read_bytes()[:-5])
    if torn != "shard":
        index = tmp_path / "samples.idx"
        index.write_bytes(index.read_bytes()[:-5])
    writer = CacheWriter(tmp_path, "t", LAYERS, 4, ORIGIN)
    assert writer.num_samples == 5
    for sample in made[5:]:
        writer.add(sample)
    writer.flush()
    check(CacheReader(tmp_path), made)


def test_what_does_not_fit_is_refused_by_name(tmp_path):
    writer = CacheWriter(tmp_path, "t", LAYERS, 4, ORIGIN)
    writer.add(samples(1)[0])
    writer.flush()
    target = load_frozen(TARGET, torch.float32)
    data, run = Data("cache", str(tmp_path)), Run()
    with pytest.raises(DataError, match=r"target_layer_ids \[1, 3, 5\], the drafter reads \[1, 3\]"):
        open_cache(data, run, target, (1, 3), "t", "t")
    with pytest.raises(DataError, match="hidden_size 4, the target has 64"):
        open_cache(data, run, target, LAYERS, "t", "t")
    with pytest.raises(DataError, match="name another folder"):
        CacheWriter(tmp_path, "t", (1, 3), 4, ORIGIN)
    manifest = tmp_path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": 2', '"version": 1'))
    with pytest.raises(DataError, match="version is 1, only 2 is read"):
        CacheReader(tmp_path)


def test_of_texts_longer_than_a_row_the_answer_is_cached_and_read(tmp_path):
    target = load_frozen(TARGET, torch.float32)
    text = MaskedText(np.arange(60, dtype=np.int32), np.arange(60) >= 50)
    write_cache([text], target, LAYERS, "t", tmp_path, msgspec.structs.replace(ORIGIN, row_len=24))
    for row_len, wanted in ((24, list(range(36, 60))), (16, list(range(44, 60)))):
        data = Data("cache", str(tmp_path), row_len=row_len)
        batches = open_cache(data, Run(num_rows=1), target, LAYERS, "t", "t")
        batch = batches.batch(0)
        assert batch.rows.tokens[0].tolist() == wanted
        assert batch.rows.weights[0].tolist() == [0.0] * (row_len - 10) + [1.0] * 10
        assert batch.states.features.shape[1] == row_len


def test_cached_features_are_those_that_are_made_in_the_step(tmp_path):
    target = load_frozen(TARGET, torch.float32)
    texts = documents(8)
    # As a stopped call and its continuation.
    write_cache(texts[:3], target, LAYERS, "t", tmp_path, ORIGIN)
    assert write_cache(texts, target, LAYERS, "t", tmp_path, ORIGIN) == 8
    batches = open_cache(Data("cache", str(tmp_path), row_len=48), Run(num_rows=4), target, LAYERS, "t", "t")
    assert batches.batches_per_epoch == 2
    batch = batches.batch(3)
    assert batch.states is not None
    made = target_states(target, batch.rows, LAYERS)
    real = batch.rows.documents == 0
    for own, wanted in ((batch.states.features, made.features), (batch.states.last_hidden, made.last_hidden)):
        torch.testing.assert_close(own[real].float(), wanted[real].bfloat16().float(), rtol=2e-2, atol=2e-2)
    seen = sorted(
        tuple(row[mask].tolist())
        for number in (2, 3)
        for row, mask in zip(batches.batch(number).rows.tokens, batches.batch(number).rows.documents == 0, strict=True)
    )
    assert seen == sorted(tuple(text.tokens.tolist()) for text in texts)
    assert isinstance(batch.rows, Rows)


@pytest.mark.parametrize("change", [{"target_sha256": "u"}, {"texts_sha256": "others"}, {"row_len": 32}])
def test_a_writer_does_not_go_on_with_features_of_something_else(change, tmp_path):
    CacheWriter(tmp_path, "t", LAYERS, 4, ORIGIN).flush()
    [(name, value)] = change.items()
    with pytest.raises(DataError, match=f"of {name} {getattr(ORIGIN, name)}, not {value}; name another folder"):
        CacheWriter(tmp_path, "t", LAYERS, 4, msgspec.structs.replace(ORIGIN, **change))


def test_a_cache_that_does_not_say_what_it_is_of_is_read_but_not_gone_on_with(tmp_path, capsys):
    target = load_frozen(TARGET, torch.float32)
    write_cache(documents(4), target, LAYERS, "their/name", tmp_path, ORIGIN)
    manifest = tmp_path / "manifest.json"
    told = json.loads(manifest.read_text())
    del told["origin"]
    manifest.write_text(json.dumps(told))
    data = Data("cache", str(tmp_path), row_len=48)
    assert open_cache(data, Run(), target, LAYERS, "their/name", "t").batches_per_epoch == 4
    assert capsys.readouterr().out == ""
    assert open_cache(data, Run(), target, LAYERS, "our/name", "t").batches_per_epoch == 4
    assert "is of target 'their/name', the recipe's is 'our/name'" in capsys.readouterr().out
    with pytest.raises(DataError, match="does not say of which target and texts"):
        CacheWriter(tmp_path, "their/name", LAYERS, 64, ORIGIN)


def test_a_cache_of_another_target_or_of_shorter_texts_is_not_trained_on(tmp_path):
    target = load_frozen(TARGET, torch.float32)
    write_cache(documents(4), target, LAYERS, "their/name", tmp_path, ORIGIN)
    data = Data("cache", str(tmp_path), row_len=48)
    with pytest.raises(DataError, match=r"another target, 'their/name' \(weights t\), than the recipe's, 'x' \(u\)"):
        open_cache(data, Run(), target, LAYERS, "x", "u")
    longer = Data("cache", str(tmp_path), row_len=64)
    with pytest.raises(DataError, match=r"cut at 48 tokens, and data\.row_len is 64; set data\.row_len = 48"):
        open_cache(longer, Run(), target, LAYERS, "their/name", "t")


def test_features_are_cached_by_one_process(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="one process, and torchrun started 2"):
        cache_features(make_recipe(tmp_path), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
