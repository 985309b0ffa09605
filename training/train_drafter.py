"""Train a drafter as a recipe says, from the target's checkpoint to a drafter that `specd serve` loads."""

from pathlib import Path

import msgspec
import torch

from core.errors import ConfigError
from models import checkpoint
from models.config_json import read_config
from models.draft_fit import DraftNetwork
from models.folders import drafter_folder, target_folder
from models.load_target import load_frozen
from models.target import Target
from training.averaged_weights import averaged, copied
from training.cached_batches import open_cache, write_cache
from training.drafter_files import drafter_json, load_trainable, make_drafter, write_drafter
from training.dspark_loss import DFLASH_WEIGHTS, LossWeights
from training.feature_cache import Origin
from training.identity import check_tokens, weights_sha256
from training.initial_weights import start_at_random, start_at_target
from training.objective import BlockObjective, ChainObjective, Objective
from training.processes import Place, joined, num_processes
from training.progress import Progress, Silent
from training.recipe import Recipe, Run
from training.same_shape import check_shape
from training.shards import read_shards
from training.sources import Batches, demo_batches, shard_batches
from training.trainer import Trainer

STARTS = ("target", "random")


def train(recipe: Recipe) -> Path:
    """Train, or go on where a run of this recipe stopped; returns the drafter's folder.

    Raises ConfigError, CheckpointError or DataError for what does not fit together, before anything is trained.
    """
    if recipe.run.threads:
        torch.set_num_threads(recipe.run.threads)
    with joined(recipe.run.device) as place:
        _check_processes(recipe, place)
        output = Path(recipe.output)
        run = output / "run"
        folder = target_folder(recipe.target)
        target = load_frozen(folder, target_dtype(recipe.run, place.device)).to(place.device)
        network, config = first_drafter(recipe, target, folder)
        objective = objective_of(recipe)
        batches = open_batches(recipe, network, target, folder, run)
        start_share = recipe.drafter.start_share
        start = copied(dict(network.named_parameters())) if start_share else {}
        trainer = Trainer(recipe, network, target, objective, batches, run, place, weights_sha256(folder))

        def export() -> None:
            # All processes give their parts, the first writes.
            weights = trainer.weights()
            if start:
                weights = averaged(weights, start, start_share)
            if place.is_first:
                write_drafter(output, config, checkpoint.split_weights(network, weights))

        with _progress(recipe, objective, network, run, place) as show:
            trainer.train(show, export)
    return output


def cache_features(recipe: Recipe, folder: Path) -> int:
    """Write what the recipe's target makes of its prepared texts to a feature cache; returns the samples in it.

    Goes on where a stopped call left off. Raises CheckpointError, DataError, and OSError for a full disk.
    """
    if recipe.data.source != "shards":
        raise ConfigError(f'features are cached of prepared texts: data.source = "shards", got "{recipe.data.source}"')
    if num_processes() > 1:
        raise ConfigError(
            f"features are cached by one process, and torchrun started {num_processes()}; start specd train features "
            "without it"
        )
    with joined(recipe.run.device) as place:
        dtype = torch.float32 if place.device.type == "cpu" else torch.bfloat16
        texts, from_folder = read_shards(Path(recipe.data.folder)), target_folder(recipe.target)
        check_tokens(texts.folder, texts.index.tokenizer_sha256, from_folder)
        target = load_frozen(from_folder, dtype).to(place.device)
        layer_ids = recipe.drafter.target_layer_ids
        origin = Origin(weights_sha256(from_folder), texts.index.texts_sha256, recipe.data.row_len)

        def show(count: int) -> None:
            print(f"{count} of {len(texts)} texts", flush=True)

        return write_cache(texts, target, layer_ids, recipe.target, folder, origin, show)


def target_dtype(run: Run, device: torch.device) -> torch.dtype:
    """Return what a target's weights are kept in beside a drafter: without autocast, its states are of their type."""
    return torch.float32 if device.type == "cpu" or run.precision == "float32" else torch.bfloat16


def first_drafter(recipe: Recipe, target: Target, folder: Path) -> tuple[DraftNetwork, dict[str, object]]:
    """Return the drafter that training starts with, and its config.json.

    Raises CheckpointError naming the key, ConfigError for one that is not that of the drafter to go on from.
    """
    shape = recipe.drafter
    if shape.start not in STARTS:
        network, config = load_trainable(drafter_folder(shape.kind, shape.start), shape.kind, target)
        check_shape(shape, network)
        return network, config
    if shape.start_share:
        raise ConfigError(f'drafter.start_share is of a drafter to go on from, and drafter.start is "{shape.start}"')
    config = drafter_json(read_config(folder), shape, recipe.run.num_anchors)
    network = make_drafter(config, shape.kind, target)
    start_at_random(network, recipe.run.seed)
    if shape.start == "target":
        start_at_target(network, target)
    return network, config


def objective_of(recipe: Recipe) -> Objective:
    """Return what the recipe's kind is trained to do."""
    loss = recipe.loss
    if recipe.drafter.kind == "eagle3":
        return ChainObjective(loss.step_decay)
    if recipe.drafter.kind == "dflash":
        return BlockObjective(msgspec.structs.replace(DFLASH_WEIGHTS, decay=loss.position_decay))
    return BlockObjective(
        LossWeights(loss.cross_entropy, loss.total_variation, loss.confidence, decay=loss.position_decay)
    )


def open_batches(recipe: Recipe, network: DraftNetwork, target: Target, folder: Path, run: Path) -> Batches:
    """Open the recipe's data; raises DataError."""
    if recipe.data.source == "demo":
        return demo_batches(recipe.data, recipe.run, target, folder, run / "texts")
    if recipe.data.source == "cache":
        return open_cache(
            recipe.data,
            recipe.run,
            target,
            network.config.target_layer_ids,
            recipe.target,
            weights_sha256(folder),
        )
    return shard_batches(recipe.data, recipe.run, folder)


def _progress(recipe: Recipe, objective: Objective, network: DraftNetwork, run: Path, place: Place) -> Progress:
    if not place.is_first:
        return Silent()
    return Progress(run, objective.terms(network), tensorboard=recipe.run.tensorboard)


def _check_processes(recipe: Recipe, place: Place) -> None:
    if recipe.run.num_rows % place.world:
        raise ConfigError(f"run.num_rows {recipe.run.num_rows} must be a multiple of the {place.world} processes")
