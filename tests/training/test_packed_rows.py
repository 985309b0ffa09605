"""Documents in rows: what is learnt is in them whatever came before it, and what teaches nothing takes no room."""

import numpy as np
import pytest

from core.errors import DataError
from training.data.shard_writer import ShardWriter
from training.identity import tokenizer_sha256
from training.packed_rows import MaskedText, PackedRows
from training.recipe import read_recipe
from training.shards import Document
from training.sources import shard_batches
from training_pair import TARGET, write_recipe


def text(num_read, num_learnt, num_after=0):
    """Return tokens 1, 2, ... of which num_learnt after the first num_read are learnt."""
    mask = np.repeat([False, True, False], [num_read, num_learnt, num_after])
    return MaskedText(np.arange(1, len(mask) + 1, dtype=np.int32), mask)


def row_of(one, row_len=16):
    rows = PackedRows([one], row_len, 1, seed=0).batch(0)
    return rows.tokens[0].tolist(), rows.weights[0].tolist()


def test_an_answer_behind_a_long_prompt_is_read_whole_with_the_prompts_end_before_it():
    tokens, weights = row_of(text(100, 5, num_after=30))
    assert tokens == list(range(90, 106))
    assert weights == [0.0] * 11 + [1.0] * 5


def test_of_an_answer_that_does_not_fit_the_end_is_read():
    tokens, weights = row_of(text(10, 40))
    assert tokens == list(range(35, 51))
    assert weights == [0.0] + [1.0] * 15


def test_a_document_that_fits_is_read_whole():
    tokens, weights = row_of(text(4, 6, num_after=6))
    assert tokens == list(range(1, 17))
    assert weights == [0.0] * 4 + [1.0] * 6 + [0.0] * 6


def test_documents_without_a_draft_to_learn_are_left_out_and_counted():
    rows = PackedRows([text(9, 0), text(9, 1), text(0, 2), text(50, 0), text(1, 2)], 16, 1, seed=0)
    assert (rows.num_documents, rows.num_dropped) == (1, 4)
    assert rows.batch(0).tokens[0, :4].tolist() == [1, 2, 3, 0]


def test_data_from_which_nothing_is_to_be_learnt_is_refused():
    with pytest.raises(DataError, match="nothing is to be learnt from 3 documents"):
        PackedRows([text(9, 0), text(50, 0), text(3, 1)], 16, 1, seed=0)
    with pytest.raises(DataError, match="there are no documents"):
        PackedRows([], 16, 1, seed=0)


def test_who_trains_is_told_how_many_prepared_documents_teach_nothing(tmp_path, capsys):
    recipe = read_recipe(write_recipe(tmp_path), ())
    shard_batches(recipe.data, recipe.run, TARGET)
    assert not capsys.readouterr().out
    writer = ShardWriter(tmp_path / "mixed", "test", tokenizer_sha256(TARGET))
    for number in range(20):
        one = text(3, 9) if number % 4 else text(12, 0)
        writer.add(number, [Document(one.tokens, one.mask, "count")])
    writer.finish()
    mixed = read_recipe(str(tmp_path / "recipe.toml"), (f"data.folder={tmp_path / 'mixed'}",))
    shard_batches(mixed.data, mixed.run, TARGET)
    assert "left out 5 documents with nothing to learn, 15 stay" in capsys.readouterr().out
