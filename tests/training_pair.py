"""A target on disk and prepared text for it, small enough to train beside in a test."""

import numpy as np

from paths import FIXTURES
from training.data.shard_writer import ShardWriter
from training.identity import tokenizer_sha256
from training.recipe import Recipe, read_recipe
from training.shards import Document

TARGET = FIXTURES / "target_qwen3"
RECIPE = f"""
target = "{TARGET}"
output = "OUTPUT"

[drafter]
kind = "dspark"
target_layer_ids = [1, 3, 5]
num_layers = 1
block_size = 4
mask_token_id = 255
markov_rank = 8

[data]
folder = "DATA"
row_len = 48

[optimiser]
learning_rate = 2e-3

[run]
steps = 6
num_rows = 2
num_anchors = 6
precision = "float32"
device = "cpu"
threads = 1
log_steps = 2
"""


def documents(count: int = 40) -> list[Document]:
    """Return texts that count on, of several lengths, prompts masked out."""
    texts = (np.arange(start, start + 8 + start % 17, dtype=np.int32) * 3 % 250 for start in range(count))
    return [Document(tokens, np.arange(len(tokens)) >= 3, "count") for tokens in texts]


def write_recipe(folder, texts: list[Document] | None = None) -> str:
    """Write shards and a recipe that reads them; returns its path."""
    writer = ShardWriter(folder / "data", "test", tokenizer_sha256(TARGET))
    for number, document in enumerate(texts or documents()):
        writer.add(number, [document])
    writer.finish()
    text = RECIPE.replace("OUTPUT", str(folder / "out")).replace("DATA", str(folder / "data"))
    (folder / "recipe.toml").write_text(text, encoding="utf-8")
    return str(folder / "recipe.toml")


def make_recipe(folder, *changes: str) -> Recipe:
    """Return the recipe with changes."""
    return read_recipe(write_recipe(folder), changes)
