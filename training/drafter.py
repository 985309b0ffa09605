"""Train a drafter for a frozen target: its features are made in the same step, nothing is cached on disk.

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
from torch import Tensor

from core.config import CheckpointKind
from models.dflash_config import DFlashConfig
from models.dflash_net import DFlashNet
from models.draft_fit import DraftNetwork
from models.eagle3_config import Eagle3Config
from models.eagle3_net import Eagle3Net
from models.qwen3 import Qwen3, Qwen3Config
from training.blocks import sample_anchors
from training.budget import Budget, learning_rate_scale
from training.dspark_loss import DFLASH_WEIGHTS, LossWeights
from training.features import target_states
from training.initial_weights import start_at_random, start_at_target
from training.losses import Losses
from training.objective import BlockObjective, ChainObjective, Draw, Objective
from training.onpolicy import Texts
from training.packing import Document, LibraryStream, Rows, stack
from training.record import LossRecord, progress_bar
from training.state import Counters, load_state, save_state
from training.target import optimizers_of, take_step


class DrafterRecipe(msgspec.Struct, frozen=True):
    """The choices of one training run."""

    budget: Budget
    kind: CheckpointKind = "dspark"
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


def drafter_config(target: Qwen3Config, recipe: DrafterRecipe) -> DFlashConfig | Eagle3Config:
    """Describe the drafter: the target's shape with few layers, and the keys of its kind."""
    num_layers = 1 if recipe.kind == "eagle3" else recipe.num_layers
    backbone = msgspec.structs.replace(target, num_hidden_layers=num_layers, tie_word_embeddings=False)
    if recipe.kind == "eagle3":
        return Eagle3Config(
            backbone=backbone,
            target_layer_ids=recipe.target_layer_ids,
            num_target_layers=target.num_hidden_layers,
            num_drafts=recipe.block_size,
        )
    is_dspark = recipe.kind == "dspark"
    return DFlashConfig(
        backbone=backbone,
        target_layer_ids=recipe.target_layer_ids,
        block_size=recipe.block_size,
        mask_token_id=recipe.mask_token_id,
        num_target_layers=target.num_hidden_layers,
        markov_rank=recipe.markov_rank if is_dspark else 0,
        enable_confidence_head=is_dspark and recipe.weights.confidence > 0,
    )


def objective_of(recipe: DrafterRecipe) -> Objective:
    """Return what the recipe's kind is trained to do."""
    if recipe.kind == "eagle3":
        return ChainObjective()
    return BlockObjective(recipe.weights if recipe.kind == "dspark" else DFLASH_WEIGHTS)


def new_drafter(target: Qwen3, recipe: DrafterRecipe) -> DFlashNet | Eagle3Net:
    """Build a drafter that starts at the target's last layers."""
    config = drafter_config(target.config, recipe)
    network = Eagle3Net(config) if isinstance(config, Eagle3Config) else DFlashNet(config)
    start_at_random(network, recipe.seed)
    start_at_target(network, target)
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


def draft_losses(
    drafter: DraftNetwork, target: Qwen3, objective: Objective, rows: Rows, anchors: Tensor, kept: Tensor
) -> Losses:
    """Run the frozen target, then the drafter where it is to draft, and return the losses."""
    with torch.autocast(rows.tokens.device.type, torch.bfloat16):
        states = target_states(target, rows, drafter.config.target_layer_ids)
        return objective.losses(drafter, target, Draw(rows, states, anchors, kept))


def train_drafter(
    drafter: DFlashNet | Eagle3Net,
    target: Qwen3,
    rows: TextRows,
    recipe: DrafterRecipe,
    folder: Path,
    measure: Callable[[DraftNetwork], Mapping[str, float]] = lambda _: {},
    on_save: Callable[[DraftNetwork], None] = lambda _: None,
) -> None:
    """Train in place until the budget ends; `measure` gives numbers for the record at every checkpoint."""
    optimizers = optimizers_of(drafter, recipe.muon_lr, recipe.adam_lr, 0.0)
    state, counters = folder / "state.safetensors", Counters()
    if state.exists():
        counters = load_state(state, drafter, optimizers)
    generator = torch.Generator().manual_seed(recipe.seed + counters.steps)
    objective = objective_of(recipe)
    loss_of = torch.compile(draft_losses) if recipe.compile else draft_losses
    taus = tuple(f"tau_{source}" for source in ("math", "code", "chat", "library"))
    record = LossRecord(folder / "losses.csv", ("step", "tokens", "seconds", *objective.terms(drafter), *taus))
    started = time.monotonic() - counters.elapsed_s
    saved = counters.elapsed_s
    recent: list[Tensor] = []
    with progress_bar() as bar:
        line = bar.add_task("drafter", total=1.0)
        while (progress := recipe.budget.progress(counters.elapsed_s, counters.tokens)) < 1.0:
            batch = rows.batch(recipe.num_rows).to(target.embedding.device)
            anchors, kept = sample_anchors(batch.weights, recipe.num_anchors, generator)
            losses = loss_of(drafter, target, objective, batch, anchors, kept)
            take_step(drafter, optimizers, losses.total, learning_rate_scale(progress), recipe.max_gradient_norm)
            recent.append(losses.terms.detach())
            counters.steps += 1
            counters.tokens += batch.tokens.numel()
            counters.elapsed_s = time.monotonic() - started
            if counters.steps % recipe.log_steps == 0:
                terms = torch.stack(recent).mean(0)
                values = {
                    "step": counters.steps,
                    "tokens": counters.tokens,
                    "seconds": counters.elapsed_s,
                    **dict(zip(losses.names, terms.tolist(), strict=True)),
                }
                recent.clear()
                if counters.elapsed_s - saved > recipe.save_s:
                    values |= measure(drafter)
                    save_state(state, drafter, optimizers, counters)
                    on_save(drafter)
                    saved = counters.elapsed_s
                record.add(values)
                bar.update(line, completed=progress, description=f"drafter loss {losses.total.item():.3f}")
    save_state(state, drafter, optimizers, counters)
    record.add({"step": counters.steps, "tokens": counters.tokens, "seconds": counters.elapsed_s, **measure(drafter)})
    record.plot(folder / "losses.png")
