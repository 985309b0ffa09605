"""Measure what a training step of full size costs: long rows, many anchors, a large vocabulary, at reduced width.

python -m training.measure_memory --kind dspark --row-len 4096 --anchors 512 --vocabulary 151936 --hidden 128
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np
import torch

from models.qwen3 import Qwen3Config
from training.drafter_files import drafter_json, make_drafter
from training.export import shape_json
from training.initial_weights import start_at_random
from training.packed_rows import MaskedText, PackedRows
from training.processes import Place
from training.recipe import Data, DrafterShape, Recipe, Run
from training.sources import TextBatches
from training.target import new_target
from training.train_drafter import objective_of
from training.trainer import Trainer

LAYER_IDS = (0, 1, 2)


class Cost(msgspec.Struct, frozen=True):
    """What it took: peak resident or device memory, in GiB, and text tokens a second."""

    before_gib: float
    peak_gib: float
    tokens_per_s: float


def measure(recipe: Recipe, vocabulary: int, hidden: int, device: str) -> Cost:
    """Take recipe.run.steps steps beside a random target of four layers."""
    place = Place(0, 1, torch.device(device))
    shape = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=4,
        num_attention_heads=max(1, hidden // 64),
        num_key_value_heads=max(1, hidden // 128),
        head_dim=64,
        max_position_embeddings=recipe.data.row_len,
    )
    target = new_target(shape, 0).requires_grad_(False).to(place.device)
    if place.device.type == "cuda":
        target = target.bfloat16()
    config = drafter_json({"model_type": "qwen3", **shape_json(shape)}, recipe.drafter, recipe.run.num_anchors)
    network = make_drafter(config, recipe.drafter.kind, target)
    start_at_random(network, 0)
    length = recipe.data.row_len
    tokens = np.random.default_rng(0).integers(0, vocabulary, length, dtype=np.int32)
    texts = [MaskedText(tokens, np.ones(length, bool))]
    with tempfile.TemporaryDirectory() as folder:
        batches = TextBatches(PackedRows(texts, length, 1, 0))
        trainer = Trainer(recipe, network, target, objective_of(recipe), batches, Path(folder), place, "random")
        before = peak_gib(place)
        started = time.monotonic()
        for _ in range(recipe.run.steps):
            trainer.step()
        seconds = time.monotonic() - started
    return Cost(before, peak_gib(place), trainer.counters.tokens / seconds)


def peak_gib(place: Place) -> float:
    """Return the peak so far of the device's memory, or of this process' on the CPU."""
    if place.device.type == "cuda":
        return torch.cuda.max_memory_allocated(place.device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure the memory and speed of a training step.")
    parser.add_argument("--kind", choices=["dspark", "dflash", "eagle3"], default="dspark")
    parser.add_argument("--row-len", type=int, default=4096)
    parser.add_argument("--anchors", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    num_layers = 1 if given.kind == "eagle3" else 2
    recipe = Recipe(
        "random",
        "none",
        DrafterShape(given.kind, LAYER_IDS, num_layers=num_layers, markov_rank=64),
        Data(row_len=given.row_len),
        run=Run(steps=given.steps, num_anchors=given.anchors, threads=given.threads),
    )
    cost = measure(recipe, given.vocabulary, given.hidden, given.device)
    print(
        f"{given.kind}: peak {cost.peak_gib:.2f} GiB ({cost.before_gib:.2f} before the first step), "
        f"{cost.tokens_per_s:.0f} tokens/s"
    )


if __name__ == "__main__":
    main()
