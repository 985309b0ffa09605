"""Cost tables are measured once for a machine and its models, and never believed for another."""

import json

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from engine.cost_cache import cost_key, load_or_measure
from engine.shape import EngineShape
from policies.fixed import Fixed
from toys import make_engine, tiny_dspark, tiny_target

SHAPE = EngineShape(max_num_seqs=1, max_num_batched_tokens=32, kv_cache_tokens=1024, block_size=4)


def make(vocab_size=32, seed=0, shape=SHAPE, block_size=4):
    target = tiny_target(vocab_size, seed=seed)
    return make_engine(target, tiny_dspark(target, block_size=block_size), Fixed(4), shape)


@pytest.fixture(scope="module")
def engine():
    return make()


def events(engine, folder):
    with capture_logs() as logs:
        table = load_or_measure(engine, "dspark", folder)
    return table, {entry["event"] for entry in logs} - {"profile_step"}


def test_a_table_is_measured_once(engine, tmp_path):
    measured, first = events(engine, tmp_path / "costs")
    loaded, second = events(engine, tmp_path / "costs")
    assert (first, second) == ({"profile_done"}, set())
    assert loaded == measured


@pytest.mark.parametrize(
    ("spoil", "event"),
    [
        (lambda text: text[: len(text) // 2], "cost_table_unreadable"),
        (lambda text: text.replace('"lengths"', '"widths"'), "cost_table_unreadable"),
        (lambda text: json.dumps(json.loads(text) | {"key": "another"}), "cost_table_foreign"),
        (lambda text: text.replace('"sequences": [\n      1', '"sequences": [\n      -1'), "cost_table_unreadable"),
    ],
    ids=["cut", "renamed", "foreign", "impossible"],
)
def test_a_file_that_cannot_be_believed_is_measured_anew(engine, tmp_path, spoil, event):
    load_or_measure(engine, "dspark", tmp_path)
    (path,) = tmp_path.glob("*.json")
    text = path.read_text()
    path.write_text(spoil(text))
    assert path.read_text() != text
    assert events(engine, tmp_path)[1] == {event, "profile_done"}
    assert events(engine, tmp_path)[1] == set()


def test_a_folder_that_cannot_be_written_is_no_reason_to_stop(engine, tmp_path):
    (tmp_path / "file").touch()
    table, logged = events(engine, tmp_path / "file")
    assert table.sequences == (1,)
    assert logged == {"profile_done", "cost_table_not_written"}


def test_the_key_is_of_shapes_not_of_weights(engine):
    assert cost_key(make(seed=3), "dspark") == cost_key(engine, "dspark")


@pytest.mark.parametrize(
    "other",
    [
        {"vocab_size": 48},
        {"block_size": 3},
        {"shape": EngineShape(max_num_seqs=2, max_num_batched_tokens=32, kv_cache_tokens=1024, block_size=4)},
        {"shape": EngineShape(max_num_seqs=1, max_num_batched_tokens=16, kv_cache_tokens=1024, block_size=4)},
        {"shape": replace(SHAPE, graph_sizes=(1,))},
    ],
    ids=["target", "drafter", "slots", "chunks", "graphs"],
)
def test_another_machine_or_model_has_another_key(engine, other):
    assert cost_key(make(**other), "dspark") != cost_key(engine, "dspark")
