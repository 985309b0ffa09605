"""Build the demo pair from nothing: tokenizer, target, drafter, all from generated tasks and the standard library.

This is `specd train demo`. Every stage leaves its result in the run folder and is taken from there when it is
complete, so a stopped build goes on where it was.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from tokenizers import Tokenizer

from core.config import CheckpointKind
from models.draft_fit import DraftNetwork
from models.qwen3 import Qwen3, Qwen3Config
from training.acceptance import expected_survival
from training.budget import Budget
from training.corpus import Corpus, read_corpus
from training.drafter import DrafterRecipe, TextRows, new_drafter, objective_of, train_drafter
from training.export import export_drafter, export_target
from training.generate import frozen_copy
from training.onpolicy import ROWS_PER_BATCH, SOURCES, Texts, load_texts, save_texts, write_texts
from training.packing import Mixture, Rows, RowStream, encode_library
from training.record import write_json
from training.target import DEMO_SHAPE, TargetRecipe, held_out_rows, load_trained, new_target, train_target
from training.tokenizer import TASKS_PER_DOMAIN, train_tokenizer

DEMO_FOLDER = Path(__file__).parents[1] / "models" / "demo"
# Chat and library text vary most, so they need most examples.
TEXT_SHARES = {"math": 0.2, "code": 0.2, "chat": 0.2, "library": 0.4}


class Scale(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How large a pair is, and what a step of its training reads; the defaults are the demo's, for two CPU cores.

    python_files     a folder of Python files to read in place of the standard library
    device           where networks are trained and write their texts, "cpu" or "cuda"
    compile          whether steps are compiled by torch first, which needs a C++ compiler
    rows_at_once     texts that the target writes side by side
    save_s           seconds between two checkpoints: the most that a stopped run loses
    """

    shape: Qwen3Config = DEMO_SHAPE
    draft_layers: int = 2
    target_layer_ids: tuple[int, ...] = (1, 5, 8)
    markov_rank: int = 64
    num_rows: int = 8
    row_len: int = 512
    num_anchors: int = 64
    device: Literal["cpu", "cuda"] = "cpu"
    compile: bool = True
    rows_at_once: int = ROWS_PER_BATCH
    save_s: float = 180.0
    python_files: Path | None = None
    tokenizer_tasks: int = TASKS_PER_DOMAIN
    held_out_tokens: int = 8_000


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a build may spend, where it works, and how large what it builds is."""

    run: Path
    output: Path
    target_minutes: float = 50.0
    drafter_minutes: float = 35.0
    text_tokens: int = 1_500_000
    target_folder: Path | None = None
    kind: CheckpointKind = "dspark"
    scale: Scale = Scale()


def build(plan: Plan) -> None:
    """Train what is not there yet and write the checkpoints under `plan.output`."""
    corpus = read_corpus(plan.scale.python_files)
    print(f"library text: {corpus.num_bytes} bytes, sha256 {corpus.sha256}", flush=True)
    folder = plan.target_folder or build_target(plan, corpus)
    target, tokenizer = load_trained(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    target.to(plan.scale.device)
    build_drafter(plan, corpus, target, tokenizer)


def build_target(plan: Plan, corpus: Corpus) -> Path:
    """Train the tokenizer and the target, or finish a run that was stopped; returns the checkpoint folder."""
    scale, tokenizer = plan.scale, load_tokenizer(plan, corpus)
    library, held_out_library = (
        encode_library(tokenizer, list(part.values())) for part in (corpus.train, corpus.held_out)
    )
    recipe = TargetRecipe(
        Budget(plan.target_minutes * 60),
        num_rows=scale.num_rows,
        row_len=scale.row_len,
        compile=scale.compile,
        save_s=scale.save_s,
    )
    network = new_target(scale.shape, recipe.seed).to(scale.device)
    losses = train_target(
        network,
        RowStream(tokenizer, library, recipe.row_len, recipe.seed, Mixture()),
        held_out_rows(tokenizer, held_out_library, recipe),
        recipe,
        plan.run / "target",
        on_save=lambda saved: export_target(plan.run / "snapshot" / "target", saved, tokenizer),
    )
    print("held-out nats per token:", {name: round(loss, 3) for name, loss in losses.items()}, flush=True)
    write_json(plan.run / "target" / "held_out.json", losses)
    export_target(plan.run / "final" / "target", network, tokenizer)
    return plan.run / "final" / "target"


def load_tokenizer(plan: Plan, corpus: Corpus) -> Tokenizer:
    """Read the run's tokenizer, or train it."""
    path = plan.run / "tokenizer.json"
    if not path.exists():
        plan.run.mkdir(parents=True, exist_ok=True)
        scale = plan.scale
        train_tokenizer(list(corpus.train.values()), scale.shape.vocab_size, scale.tokenizer_tasks).save(str(path))
    return Tokenizer.from_file(str(path))


def build_drafter(plan: Plan, corpus: Corpus, target: Qwen3, tokenizer: Tokenizer) -> DraftNetwork:
    """Let the target write texts, train the drafter on them, export it at every checkpoint."""
    library, held_out_library = (
        encode_library(tokenizer, list(part.values())) for part in (corpus.train, corpus.held_out)
    )
    texts = own_texts(plan, target, tokenizer, library)
    recipe = drafter_recipe(plan)
    run = plan.run / plan.kind
    held_out = held_out_texts(plan, target, tokenizer, held_out_library)

    def measure(drafter: DraftNetwork) -> Mapping[str, float]:
        survivals = {
            source: expected_survival(drafter, target, objective_of(recipe), rows, recipe.num_anchors)
            for source, rows in held_out.items()
        }
        write_json(run / "survival.json", {name: value.tolist() for name, value in survivals.items()})
        return {f"tau_{source}": 1.0 + survival.sum().item() for source, survival in survivals.items()}

    def export(drafter: DraftNetwork) -> None:
        # Both at once: a drafter beside another target than its own drafts in vain.
        export_target(plan.output / "target", target, tokenizer)
        export_drafter(plan.output / plan.kind, drafter, tokenizer, recipe.num_anchors)

    drafter = new_drafter(target, recipe).to(plan.scale.device)
    rows = TextRows(texts, library, recipe.row_len, recipe.seed)
    train_drafter(drafter, target, rows, recipe, run, measure, export)
    export(drafter)
    print(
        "expected accepted length at T=1:", {name: round(tau, 2) for name, tau in measure(drafter).items()}, flush=True
    )
    return drafter


def own_texts(plan: Plan, target: Qwen3, tokenizer: Tokenizer, library: Sequence[np.ndarray]) -> list[Texts]:
    """Read or write the target's texts for training prompts."""
    frozen, at_once = frozen_copy(target), plan.scale.rows_at_once
    texts = []
    for seed, source in enumerate(SOURCES):
        path = plan.run / "texts" / f"{source}.safetensors"
        if not path.exists():
            started = time.monotonic()
            num_tokens = int(plan.text_tokens * TEXT_SHARES[source])
            written = write_texts(
                frozen, tokenizer, source, library, "train", 1000 * (seed + 1), num_tokens, num_rows=at_once
            )
            rate = written.num_new_tokens / (time.monotonic() - started)
            print(f"{source}: {written.num_new_tokens} own tokens at {rate:.0f} tokens/s", flush=True)
            save_texts(path, written)
        texts.append(load_texts(path, source))
    return texts


def drafter_recipe(plan: Plan) -> DrafterRecipe:
    """Return how the plan's drafter is trained."""
    scale = plan.scale
    return DrafterRecipe(
        Budget(plan.drafter_minutes * 60),
        plan.kind,
        num_rows=scale.num_rows,
        row_len=scale.row_len,
        num_anchors=scale.num_anchors,
        num_layers=scale.draft_layers,
        target_layer_ids=scale.target_layer_ids,
        markov_rank=scale.markov_rank,
        compile=scale.compile,
        save_s=scale.save_s,
    )


def held_out_texts(plan: Plan, target: Qwen3, tokenizer: Tokenizer, library: Sequence[np.ndarray]) -> dict[str, Rows]:
    """Let the target write texts at temperature 1 for held-out prompts, one batch of rows per source."""
    frozen, scale, recipe = frozen_copy(target), plan.scale, drafter_recipe(plan)
    at_once = scale.rows_at_once
    batches = {}
    for source in SOURCES:
        texts = write_texts(frozen, tokenizer, source, library, "held_out", 77, scale.held_out_tokens, (1.0,), at_once)
        padding = [np.zeros(recipe.row_len, dtype=np.int32)]
        rows = TextRows([texts], padding, recipe.row_len, 0).batch(recipe.num_rows).to(target.embedding.device)
        # The padding's weights must not count: only documents of the source itself are measured.
        batches[source] = msgspec.structs.replace(rows, weights=rows.weights * (rows.tokens != 0))
    return batches
