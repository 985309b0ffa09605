"""`specd train`: a drafter by a recipe, or the demo pair from nothing."""

import argparse
from pathlib import Path

import torch
from rich.console import Console

from core.errors import DiskError
from training.data.held_out_lines import HELD_OUT_FILE
from training.demo import DEMO_FOLDER, Plan, build
from training.recipe import Data, read_recipe
from training.train_drafter import cache_features, train


def run(arguments: argparse.Namespace) -> int:
    """Train, and say what came of it; returns 0. Raises ConfigError, CheckpointError, DataError, DiskError."""
    try:
        return _train(arguments)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise DiskError(
            f"{error}; see to room and rights there, and start the same command again: it goes on from its last state"
        ) from error


def _train(arguments: argparse.Namespace) -> int:
    if arguments.what == "drafter":
        return _drafter(arguments)
    if arguments.what == "features":
        count = cache_features(read_recipe(arguments.recipe, arguments.changes), arguments.output)
        print(f"{count} samples are in {arguments.output}: train on them as data.folder, data.source=cache")
        return 0
    torch.set_num_threads(arguments.threads)
    plan = Plan(
        run=arguments.run,
        output=arguments.output or DEMO_FOLDER,
        target_minutes=arguments.target_minutes,
        target_tokens=arguments.target_tokens,
        target_start=arguments.target_start,
        start_share=arguments.start_share,
        drafter_minutes=arguments.drafter_minutes,
        text_tokens=arguments.text_tokens,
        target_folder=arguments.target,
        kind=arguments.kind,
    )
    build(plan)
    return 0


def _drafter(arguments: argparse.Namespace) -> int:
    recipe = read_recipe(arguments.recipe, arguments.changes)
    folder = train(recipe)
    console = Console(highlight=False)
    pair = f"--target {recipe.target} --drafter {folder if folder.is_absolute() else f'./{folder}'}"
    if recipe.data.source == "demo":
        prompts, tasks = "", "demo"
    else:
        tasks = held_out_of(recipe.data)
        prompts = f" --prompts {tasks}"
    lines = [
        f"the drafter is in {folder}, its curves and state in {folder / 'run'}",
        f"calibrate it: specd calibrate {pair}{prompts}",
        f"evaluate it:  specd eval {tasks} {pair}",
        f"serve it:     specd serve {pair}",
    ]
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    return 0


def held_out_of(data: Data) -> str:
    """Return the file that lies beside the shards and was held out from them; a word for one where there is none."""
    found = Path(data.folder).parent / HELD_OUT_FILE
    return str(found) if data.source == "shards" and found.is_file() else "PROMPTS.jsonl"
