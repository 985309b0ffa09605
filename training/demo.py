"""Build the demo pair from nothing: tokenizer, target, drafter, all from generated tasks and the standard library.

This is `specd train demo`. Every stage leaves its result in the run folder and is taken from there when it is
complete, so a stopped build goes on where it was.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import torch
from tokenizers import Tokenizer

from core.config import CheckpointKind
from core.errors import CheckpointError, ConfigError
from models import checkpoint
from models.draft_fit import DraftNetwork
from models.qwen3 import Qwen3, Qwen3Config
from training.acceptance import expected_survival
from training.averaged_weights import averaged
from training.budget import UNLIMITED, Budget
from training.chatml import MASK, token_id
from training.corpus import Corpus, read_corpus
from training.drafter_files import write_drafter
from training.export import export_target
from training.generate import frozen_copy
from training.identity import weights_sha256
from training.onpolicy import ROWS_PER_BATCH, SOURCES, write_texts
from training.packed_rows import PackedRows
from training.packing import Mixture, Rows, RowStream, encode_library
from training.processes import joined
from training.progress import Progress
from training.recipe import Data, DrafterShape, Optimiser, Recipe, Run
from training.record import LossRecord, write_json
from training.sources import TextBatches, demo_texts, masked
from training.target import (
    DEMO_SHAPE,
    Origin,
    TargetRecipe,
    evaluate,
    held_out_rows,
    load_trained,
    new_target,
    train_target,
)
from training.tokenizer import TASKS_PER_DOMAIN, train_tokenizer
from training.train_drafter import first_drafter, objective_of
from training.trainer import Trainer

DEMO_FOLDER = Path(__file__).parents[1] / "models" / "demo"
# What a target goes on with that has read tasks one by one.
CONVERSATIONS = Mixture(math=0.18, code=0.18, chat=0.1, sessions=0.32)
# Minutes end a drafter's training, not steps.
MAX_STEPS = 2**31


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
    """What a build may spend, where it works, and how large what it builds is.

    target_tokens   ends the target's training before its minutes do; None leaves it to them
    target_start    a trained target to go on from, mostly with conversations (`going_on`); None starts at random
    start_share     its share in the weights that are written (training/averaged_weights.py)
    target_folder   a target to take as it is
    """

    run: Path
    output: Path
    target_minutes: float = 50.0
    target_tokens: int | None = None
    target_start: Path | None = None
    start_share: float = 0.6
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
    build_drafter(plan, corpus, folder, target, tokenizer)


def build_target(plan: Plan, corpus: Corpus) -> Path:
    """Train the tokenizer and the target, or finish a run that was stopped; returns the checkpoint folder.

    Raises ConfigError for a share that is none, and where the run was begun with something else; CheckpointError for a
    target that cannot be gone on from.
    """
    if not 0.0 <= plan.start_share <= 1.0:
        raise ConfigError(f"start_share is a share, from 0 to 1, got {plan.start_share:g}")
    scale, start = plan.scale, load_trained(plan.target_start) if plan.target_start else None
    tokenizer = load_tokenizer(plan, corpus)
    library, held_out_library = (
        encode_library(tokenizer, list(part.values())) for part in (corpus.train, corpus.held_out)
    )
    recipe = target_recipe(plan)
    held_out = held_out_rows(tokenizer, held_out_library, recipe)
    network = new_target(start.config if start else scale.shape, recipe.seed)
    if start:
        network.load_state_dict(start.state_dict())
    network.to(scale.device)
    losses = train_target(
        network,
        RowStream(tokenizer, library, recipe.row_len, recipe.seed, recipe.mixture),
        held_out,
        recipe,
        plan.run / "target",
        on_save=lambda saved: export_target(plan.run / "snapshot" / "target", saved, tokenizer),
        origin=Origin(
            weights_sha256(plan.target_start) if plan.target_start else "",
            hashlib.sha256(tokenizer.to_str().encode()).hexdigest(),
            corpus.sha256,
        ),
    )
    if start:
        network.load_state_dict(averaged(network.state_dict(), start.state_dict(), plan.start_share))
        losses = evaluate(network, held_out)
    print("held-out nats per token:", {name: round(loss, 3) for name, loss in losses.items()}, flush=True)
    write_json(plan.run / "target" / "held_out.json", losses)
    export_target(plan.run / "final" / "target", network, tokenizer)
    return plan.run / "final" / "target"


def target_recipe(plan: Plan) -> TargetRecipe:
    """Return how the plan's target is trained."""
    scale = plan.scale
    recipe = TargetRecipe(
        Budget(plan.target_minutes * 60, plan.target_tokens or UNLIMITED),
        num_rows=scale.num_rows,
        row_len=scale.row_len,
        compile=scale.compile,
        save_s=scale.save_s,
    )
    return going_on(recipe) if plan.target_start else recipe


def going_on(recipe: TargetRecipe) -> TargetRecipe:
    """Return the recipe for a target that has learnt single tasks: longer rows, rates that undo little, other draws."""
    return msgspec.structs.replace(
        recipe,
        num_rows=max(1, recipe.num_rows // 2),
        row_len=2 * recipe.row_len,
        seed=recipe.seed + 2,
        mixture=CONVERSATIONS,
        muon_lr=recipe.muon_lr / 4,
        adam_lr=recipe.adam_lr / 4,
    )


def load_tokenizer(plan: Plan, corpus: Corpus) -> Tokenizer:
    """Read the tokenizer of the run or of the target that it goes on from, or train one."""
    path = (plan.target_start or plan.run) / "tokenizer.json"
    if not path.exists():
        if plan.target_start:
            raise CheckpointError(f"{path} is missing: a target is gone on from with its own tokenizer")
        plan.run.mkdir(parents=True, exist_ok=True)
        scale = plan.scale
        train_tokenizer(list(corpus.train.values()), scale.shape.vocab_size, scale.tokenizer_tasks).save(str(path))
    return Tokenizer.from_file(str(path))


def build_drafter(plan: Plan, corpus: Corpus, folder: Path, target: Qwen3, tokenizer: Tokenizer) -> DraftNetwork:
    """Let the target write texts, train the drafter on them, export and measure it at every checkpoint."""
    library, held_out_library = (
        encode_library(tokenizer, list(part.values())) for part in (corpus.train, corpus.held_out)
    )
    recipe, run = drafter_recipe(plan, folder, tokenizer), plan.run / plan.kind
    objective, target_sha256 = objective_of(recipe), weights_sha256(folder)
    with joined(plan.scale.device) as place:
        drafter, config = first_drafter(recipe, target, folder)
        texts = demo_texts(
            recipe.data,
            recipe.run,
            target,
            target_sha256,
            tokenizer,
            library,
            plan.run / "texts",
            plan.scale.rows_at_once,
        )
        batches = TextBatches(PackedRows(texts, recipe.data.row_len, recipe.run.num_rows, recipe.run.seed))
        trainer = Trainer(recipe, drafter, target, objective, batches, run, place, target_sha256)
        held_out = held_out_texts(plan, target, tokenizer, held_out_library)
        record = LossRecord(
            run / "accepted_length.csv", ("step", "tokens", "seconds", *(f"tau_{name}" for name in held_out))
        )

        def save() -> None:
            # Both at once: a drafter beside another target than its own drafts in vain.
            export_target(plan.output / "target", target, tokenizer)
            write_drafter(plan.output / plan.kind, config, checkpoint.split_weights(drafter, trainer.weights()))
            survivals = {
                name: expected_survival(drafter, target, objective, rows, recipe.run.num_anchors)
                for name, rows in held_out.items()
            }
            write_json(run / "survival.json", {name: value.tolist() for name, value in survivals.items()})
            taus = {f"tau_{name}": 1.0 + value.sum().item() for name, value in survivals.items()}
            done = trainer.counters
            record.add({"step": done.steps, "tokens": done.tokens, "seconds": done.elapsed_s, **taus})

        with Progress(run, objective.terms(drafter), tensorboard=False) as show:
            trainer.train(show, save)
    record.plot(run / "accepted_length.png")
    survivals = msgspec.json.decode((run / "survival.json").read_bytes(), type=dict[str, list[float]])
    lengths = {name: round(1.0 + sum(value), 2) for name, value in survivals.items()}
    print("expected accepted length at T=1:", lengths, flush=True)
    return drafter


def drafter_recipe(plan: Plan, folder: Path, tokenizer: Tokenizer) -> Recipe:
    """Return how the plan's drafter is trained."""
    scale = plan.scale
    return Recipe(
        target=str(folder),
        output=str(plan.output / plan.kind),
        drafter=DrafterShape(
            plan.kind,
            scale.target_layer_ids,
            num_layers=1 if plan.kind == "eagle3" else scale.draft_layers,
            mask_token_id=token_id(tokenizer, MASK),
            markov_rank=scale.markov_rank,
        ),
        data=Data("demo", row_len=scale.row_len, text_tokens=plan.text_tokens),
        optimiser=Optimiser("muon", 2e-3, 0.01, (0.9, 0.95), warm_up=0.02),
        run=Run(
            steps=MAX_STEPS,
            minutes=plan.drafter_minutes,
            num_rows=scale.num_rows,
            num_anchors=scale.num_anchors,
            seed=0,
            device=scale.device,
            compile=scale.compile,
            save_s=scale.save_s,
        ),
    )


def held_out_texts(plan: Plan, target: Qwen3, tokenizer: Tokenizer, library: Sequence[np.ndarray]) -> dict[str, Rows]:
    """Let the target write texts at temperature 1 for held-out prompts, one batch of rows per source."""
    frozen, scale = frozen_copy(target), plan.scale
    batches = {}
    for source in SOURCES:
        written = write_texts(
            frozen, tokenizer, source, library, "held_out", 77, scale.held_out_tokens, (1.0,), scale.rows_at_once
        )
        texts = [masked(document.ids, document.answer_start) for document in written.documents]
        rows = PackedRows(texts, scale.row_len, 1, 0)
        some = [rows.batch(number) for number in range(min(scale.num_rows, rows.batches_per_epoch))]
        batches[source] = Rows(
            *(torch.cat([getattr(one, name) for one in some]) for name in Rows.__struct_fields__)
        ).to(target.embedding.device)
    return batches
