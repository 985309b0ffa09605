"""Train the demo pair's target: a small Qwen3 on tasks and library text, bf16 autocast, Muon with AdamW.

One step reads a packed batch (training/packing.py), with attention cut at document boundaries. The run is limited by
a budget in seconds or tokens and can be stopped and resumed at any checkpoint, with the rows that come next. The loop
is its own: training/trainer.py
is for what learns beside a frozen target, by anchors and features, from texts of a known number; here there is no other
network, and rows are drawn without end.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from core.errors import CheckpointError
from models.load_target import load_frozen
from models.qwen3 import Qwen3, Qwen3Config
from training.attention import causal_attend, same_document_mask
from training.budget import Budget, learning_rate_scale
from training.chatml import END_OF_TEXT, token_id
from training.muon import Muon, split_parameters
from training.packing import (
    SESSIONS,
    Document,
    Mixture,
    Rows,
    RowStream,
    first_answers,
    stack,
    task_documents,
)
from training.record import LossRecord, progress_bar
from training.state import Counters, load_state, save_state
from training.survived import survived
from training.tasks.catalog import DOMAINS

MEASURED = (*DOMAINS, SESSIONS)
COLUMNS = ("step", "tokens", "seconds", "train", *MEASURED, "library")
INIT_STD = 0.02


class TargetRecipe(msgspec.Struct, frozen=True):
    """The choices of one training run."""

    budget: Budget
    num_rows: int = 8
    row_len: int = 512
    seed: int = 0
    mixture: Mixture = Mixture()
    muon_lr: float = 0.02
    adam_lr: float = 3e-3
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    compile: bool = True
    log_steps: int = 20
    save_s: float = 180.0
    evaluate_s: float = 300.0


class Origin(msgspec.Struct, frozen=True):
    """What a run reads and starts from, each as a SHA-256; start is "" for random weights."""

    start: str = ""
    tokenizer: str = ""
    corpus: str = ""


UNNAMED = Origin()
DEMO_SHAPE = Qwen3Config(
    vocab_size=4096,
    hidden_size=256,
    intermediate_size=768,
    num_hidden_layers=10,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=64,
    rope_theta=10_000.0,
    max_position_embeddings=2048,
    tie_word_embeddings=True,
)


def new_target(config: Qwen3Config, seed: int) -> Qwen3:
    """Build a target with small random weights; what writes to the residual stream starts smaller."""
    torch.manual_seed(seed)
    network = Qwen3(config)
    for name, parameter in network.named_parameters():
        if parameter.ndim == 2:
            is_output = name.endswith(("o_proj.weight", "down_proj.weight"))
            nn.init.normal_(parameter, std=INIT_STD / (2 * config.num_hidden_layers) ** 0.5 if is_output else INIT_STD)
    return network


def load_trained(folder: Path) -> Qwen3:
    """Load a target of the family that is trained here, frozen, in float32; raises CheckpointError."""
    network = load_frozen(folder, torch.float32)
    if not isinstance(network, Qwen3):
        raise CheckpointError(f"{folder}: drafters are trained for Qwen3ForCausalLM, not {type(network).__name__}")
    return network


def next_token_loss(network: Qwen3, rows: Rows) -> Tensor:
    """Return the weighted mean cross entropy, in nats, of every token of the rows given those before it."""
    device = rows.tokens.device
    with torch.autocast(device.type, torch.bfloat16):
        seen = same_document_mask(rows.documents)
        mask = torch.zeros(seen.shape, dtype=torch.bfloat16, device=device).masked_fill(~seen, float("-inf"))
        positions = torch.arange(rows.tokens.shape[1], device=device).expand_as(rows.tokens)
        hidden, _ = network(rows.tokens, positions, causal_attend(mask))
        logits = F.linear(hidden[:, :-1], network.lm_head.weight).float()
    losses = F.cross_entropy(logits.flatten(0, 1), rows.tokens[:, 1:].flatten(), reduction="none")
    weights = rows.weights[:, 1:].flatten() * (rows.documents[:, 1:] == rows.documents[:, :-1]).flatten()
    return (losses * weights).sum() / weights.sum().clamp(min=1.0)


def optimizers_of(
    network: nn.Module, muon_lr: float, adam_lr: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for embeddings, heads and norms."""
    matrices, others = split_parameters(network)
    return [
        Muon(matrices, lr=muon_lr, weight_decay=weight_decay),
        torch.optim.AdamW(others, lr=adam_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def take_step(
    network: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    loss: Tensor,
    scale: float,
    max_gradient_norm: float,
) -> None:
    """Backpropagate, clip, and step every optimiser at its own rate times `scale`."""
    loss.backward()
    nn.utils.clip_grad_norm_([one for one in network.parameters() if one.grad is not None], max_gradient_norm)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("top_lr", group["lr"]) * scale
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def held_out_rows(tokenizer: Tokenizer, library: Sequence[np.ndarray], recipe: TargetRecipe) -> dict[str, Rows]:
    """Return one batch per domain of held-out answers and library text; prompts and padding weigh nothing."""
    batches = {}
    for domain in MEASURED:
        source = task_documents(tokenizer, domain, recipe.seed + 1, "held_out")
        batches[domain] = stack([answer_row(tokenizer, source, recipe.row_len) for _ in range(recipe.num_rows)])
        batches[domain] = msgspec.structs.replace(batches[domain], weights=batches[domain].weights.eq(1.0).float())
    whole = [piece for piece in library if len(piece) > recipe.row_len]
    chosen = list(itertools.islice(itertools.cycle(whole), recipe.num_rows))
    starts = np.random.default_rng(recipe.seed).integers(0, [len(piece) - recipe.row_len for piece in chosen])
    pieces = [piece[start : start + recipe.row_len] for piece, start in zip(chosen, starts, strict=True)]
    batches["library"] = stack([[Document(piece.tolist())] for piece in pieces])
    return batches


def answer_row(tokenizer: Tokenizer, source: Iterator[Document], row_len: int) -> list[Document]:
    """Fill a row with whole documents and pad it with a prompt-like document that weighs nothing."""
    row: list[Document] = []
    room = row_len
    while (document := first_answers(next(source), room)) is not None:
        row.append(document)
        room -= len(document.ids)
    padding = Document([token_id(tokenizer, END_OF_TEXT)] * room, room)
    return [*row, padding] if room else row


@torch.no_grad()
def evaluate(network: Qwen3, batches: Mapping[str, Rows]) -> dict[str, float]:
    """Return held-out nats per token by domain."""
    device = network.embedding.device
    return {name: next_token_loss(network, rows.to(device)).item() for name, rows in batches.items()}


def train_target(
    network: Qwen3,
    rows: RowStream,
    held_out: Mapping[str, Rows],
    recipe: TargetRecipe,
    folder: Path,
    on_save: Callable[[Qwen3], None] = lambda _: None,
    origin: Origin = UNNAMED,
) -> dict[str, float]:
    """Train in place until the budget ends; checkpoints and losses go to `folder`. Returns the held-out losses.

    A state in `folder` is gone on from, with fresh `rows` moved to where it stood. Raises ConfigError where it is of
    another recipe, shape or origin (training/state.py), OSError if the last state cannot be written.
    """
    made_from = {**msgspec.to_builtins(recipe), "shape": network.config, "sha256": origin}
    optimizers = optimizers_of(network, recipe.muon_lr, recipe.adam_lr, recipe.weight_decay)
    state, counters = folder / "state.safetensors", Counters()
    if state.exists():
        counters = load_state(state, network, optimizers, made_from)
        rows.skip(counters.steps * recipe.num_rows)
    loss_of = torch.compile(next_token_loss) if recipe.compile else next_token_loss
    record = LossRecord(folder / "losses.csv", COLUMNS)
    started = time.monotonic() - counters.elapsed_s
    saved = evaluated = counters.elapsed_s
    recent: list[Tensor] = []
    with progress_bar() as bar:
        warn = partial(bar.console.print, markup=False, highlight=False)
        line = bar.add_task("target", total=1.0)
        while (progress := recipe.budget.progress(counters.elapsed_s, counters.tokens)) < 1.0:
            batch = rows.batch(recipe.num_rows)
            loss = loss_of(network, batch.to(network.embedding.device))
            take_step(network, optimizers, loss, learning_rate_scale(progress), recipe.max_gradient_norm)
            recent.append(loss.detach())
            counters.steps += 1
            counters.tokens += batch.tokens.numel()
            counters.elapsed_s = time.monotonic() - started
            if counters.steps % recipe.log_steps == 0:
                values = {
                    "step": counters.steps,
                    "tokens": counters.tokens,
                    "seconds": counters.elapsed_s,
                    "train": torch.stack(recent).mean().item(),
                }
                if counters.elapsed_s - evaluated > recipe.evaluate_s:
                    values |= evaluate(network, held_out)
                    evaluated = counters.elapsed_s
                with survived(warn):
                    record.add(values)
                bar.update(line, completed=progress, description=f"target loss {values['train']:.3f}")
                recent.clear()
            if counters.elapsed_s - saved > recipe.save_s:
                with survived(warn, "the run goes on, its last saved state stays"):
                    save_state(state, network, optimizers, counters, made_from)
                    on_save(network)
                saved = counters.elapsed_s
    save_state(state, network, optimizers, counters, made_from)
    losses = evaluate(network, held_out)
    with survived(print):
        record.add({"step": counters.steps, "tokens": counters.tokens, "seconds": counters.elapsed_s, **losses})
        record.plot(folder / "losses.png")
    return losses
