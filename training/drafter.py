"""Train a DSpark drafter for a frozen target: its features are made in the same step, nothing is cached on disk.

Most rows are texts that the target wrote itself; the gaps between them are filled with library text. The drafter
starts as a copy of the target's last layers, with the captured features averaged.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from models.dflash_config import DFlashConfig
from models.dflash_net import DFlashNet
from models.qwen3 import Qwen3, Qwen3Config
from training.attention import causal_attend, same_document_mask
from training.blocks import make_blocks, run_blocks, sample_anchors
from training.budget import Budget, learning_rate_scale
from training.dspark_loss import BlockLosses, LossWeights, dspark_loss
from training.onpolicy import Texts
from training.packing import Document, LibraryStream, Rows, stack
from training.record import LossRecord, progress_bar
from training.state import Counters, load_state, save_state
from training.target import optimizers_of, take_step


class DrafterRecipe(msgspec.Struct, frozen=True):
    """The choices of one training run."""

    budget: Budget
    num_rows: int = 8
    row_len: int = 512
    num_anchors: int = 64
    seed: int = 0
    num_layers: int = 2
    target_layer_ids: tuple[int, ...] = (1, 5, 8)
    block_size: int = 7
    markov_rank: int = 64
    mask_token_id: int = 3
    weights: LossWeights = LossWeights()
    muon_lr: float = 0.01
    adam_lr: float = 2e-3
    max_gradient_norm: float = 1.0
    compile: bool = True
    log_steps: int = 20
    save_s: float = 180.0


def drafter_config(target: Qwen3Config, recipe: DrafterRecipe) -> DFlashConfig:
    """Describe the drafter: the target's shape with few layers, and the DSpark keys."""
    return DFlashConfig(
        backbone=msgspec.structs.replace(target, num_hidden_layers=recipe.num_layers, tie_word_embeddings=False),
        target_layer_ids=recipe.target_layer_ids,
        block_size=recipe.block_size,
        mask_token_id=recipe.mask_token_id,
        num_target_layers=target.num_hidden_layers,
        markov_rank=recipe.markov_rank,
        enable_confidence_head=recipe.weights.confidence > 0,
    )


@torch.no_grad()
def new_drafter(target: Qwen3, recipe: DrafterRecipe) -> DFlashNet:
    """Build a drafter from the target's last layers; the Markov bias starts at zero."""
    torch.manual_seed(recipe.seed)
    network = DFlashNet(drafter_config(target.config, recipe))
    for own, copied in zip(network.layers, target.layers[-recipe.num_layers :], strict=True):
        own.load_state_dict(copied.state_dict())
    network.norm.load_state_dict(target.norm.state_dict())
    num_taps = len(recipe.target_layer_ids)
    network.fc.weight.copy_(torch.eye(target.config.hidden_size).repeat(1, num_taps) / num_taps)
    assert network.markov_head is not None
    nn.init.normal_(network.markov_head.markov_w1.weight, std=0.1)
    nn.init.zeros_(network.markov_head.markov_w2.weight)
    nn.init.zeros_(network.confidence_head.proj.weight)
    return network


class TextRows:
    """Rows of the target's own texts in equal shares by source, gaps filled with library text; mutable."""

    def __init__(self, texts: Sequence[Texts], library: Sequence[np.ndarray], row_len: int, seed: int) -> None:
        self._row_len = row_len
        self._rng = random.Random(seed)  # noqa: S311, a seed must give the same text
        self._texts = {text.source: text.documents for text in texts}
        self._queues: dict[str, list[Document]] = {name: [] for name in self._texts}
        self._drawn = dict.fromkeys(self._texts, 0)
        self._library = LibraryStream(library, seed)

    def batch(self, num_rows: int) -> Rows:
        """Draw the next rows; weights are 1 where a token was written by the target or is library text."""
        rows = stack([self._row() for _ in range(num_rows)])
        return msgspec.structs.replace(rows, weights=rows.weights.eq(1.0).float())

    def _row(self) -> list[Document]:
        row: list[Document] = []
        room = self._row_len
        while room > 0:
            name = min(self._drawn, key=lambda key: self._drawn[key])
            queue = self._queues[name] or self._rng.sample(self._texts[name], len(self._texts[name]))
            self._queues[name] = queue
            if len(queue[-1].ids) > room:
                return [*row, *(Document(piece.tolist()) for piece in self._library.take(room))]
            row.append(queue.pop())
            self._drawn[name] += len(row[-1].ids)
            room -= len(row[-1].ids)
        return row


def block_losses(
    drafter: DFlashNet, target: Qwen3, rows: Rows, anchors: Tensor, kept: Tensor, weights: LossWeights
) -> BlockLosses:
    """Run the frozen target, then the drafter's blocks at the anchors, and return the losses."""
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            last_hidden, features = target_states(target, rows, drafter.config.target_layer_ids)
        blocks = make_blocks(rows.tokens, rows.documents, rows.weights, anchors, kept, drafter.config.block_size)
        hidden = run_blocks(drafter, target.embed_tokens.weight, features, rows.tokens, rows.documents, blocks)
        return dspark_loss(drafter, target.lm_head.weight, hidden, last_hidden, blocks, weights)


def target_states(target: Qwen3, rows: Rows, layer_ids: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return final states [B, S, H] and captured features [B, S, m*H] of the target, attention kept in documents."""
    seen = same_document_mask(rows.documents)
    mask = torch.zeros(seen.shape, dtype=torch.bfloat16).masked_fill(~seen, float("-inf"))
    positions = torch.arange(rows.tokens.shape[1]).expand_as(rows.tokens)
    last_hidden, features = target(rows.tokens, positions, causal_attend(mask), layer_ids)
    assert features is not None
    return last_hidden, features


def train_drafter(
    drafter: DFlashNet,
    target: Qwen3,
    rows: TextRows,
    recipe: DrafterRecipe,
    folder: Path,
    measure: Callable[[DFlashNet], Mapping[str, float]] = lambda _: {},
    on_save: Callable[[DFlashNet], None] = lambda _: None,
) -> None:
    """Train in place until the budget ends; `measure` gives numbers for the record at every checkpoint."""
    optimizers = optimizers_of(drafter, recipe.muon_lr, recipe.adam_lr, 0.0)
    state, counters = folder / "state.safetensors", Counters()
    if state.exists():
        counters = load_state(state, drafter, optimizers)
    generator = torch.Generator().manual_seed(recipe.seed + counters.steps)
    loss_of = torch.compile(block_losses) if recipe.compile else block_losses
    record = LossRecord(
        folder / "losses.csv",
        (
            "step",
            "tokens",
            "seconds",
            "cross_entropy",
            "distance",
            "confidence",
            *(f"tau_{source}" for source in ("math", "code", "chat", "library")),
        ),
    )
    started = time.monotonic() - counters.elapsed_s
    saved = counters.elapsed_s
    recent: list[Tensor] = []
    with progress_bar() as bar:
        line = bar.add_task("drafter", total=1.0)
        while (progress := recipe.budget.progress(counters.elapsed_s, counters.tokens)) < 1.0:
            batch = rows.batch(recipe.num_rows)
            anchors, kept = sample_anchors(batch.weights, recipe.num_anchors, generator)
            losses = loss_of(drafter, target, batch, anchors, kept, recipe.weights)
            take_step(drafter, optimizers, losses.total, learning_rate_scale(progress), recipe.max_gradient_norm)
            recent.append(losses.terms.detach())
            counters.steps += 1
            counters.tokens += batch.tokens.numel()
            counters.elapsed_s = time.monotonic() - started
            if counters.steps % recipe.log_steps == 0:
                terms = torch.stack(recent).mean(0).tolist()
                values = {
                    "step": counters.steps,
                    "tokens": counters.tokens,
                    "seconds": counters.elapsed_s,
                    **dict(zip(("cross_entropy", "distance", "confidence"), terms, strict=True)),
                }
                recent.clear()
                if counters.elapsed_s - saved > recipe.save_s:
                    values |= measure(drafter)
                    save_state(state, drafter, optimizers, counters)
                    on_save(drafter)
                    saved = counters.elapsed_s
                record.add(values)
                bar.update(line, completed=progress, description=f"drafter distance {terms[1]:.3f}")
    save_state(state, drafter, optimizers, counters)
    record.add({"step": counters.steps, "tokens": counters.tokens, "seconds": counters.elapsed_s, **measure(drafter)})
    record.plot(folder / "losses.png")
