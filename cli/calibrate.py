"""`specd calibrate`: fit and judge what a drafter's confidence means, and write calibration.json."""

import argparse
from pathlib import Path

from rich.console import Console

from cli.parser import drafter_flags
from core.config import NoDrafterSettings
from core.config_file import load_settings
from core.errors import ConfigError
from models.folders import DEMO, target_folder
from training.calibrate import Task, calibrate
from training.full_rounds import PROMPTS


def run(arguments: argparse.Namespace) -> int:
    """Record rounds, fit, print what came of it and write the files; returns 0. Raises ConfigError."""
    flags = drafter_flags(arguments.drafter) | {
        "engine.target": arguments.target,
        "engine.max_num_seqs": arguments.concurrency,
        "engine.num_threads": arguments.threads,
        "engine.profile": False,
    }
    settings, _ = load_settings(None, {}, flags)
    if isinstance(settings.drafter, NoDrafterSettings):
        raise ConfigError("--drafter none has nothing to calibrate")
    prompts = tuple(arguments.prompts or ())
    if not prompts:
        if not is_demo(arguments.target):
            raise ConfigError(
                f"--prompts is missing: give what users ask of {arguments.target} and the drafter was not trained on, "
                "such as the held_out.jsonl that `specd data prepare` writes; only the demo has prompts of its own"
            )
        prompts = (PROMPTS,)
    task = Task(
        settings,
        arguments.rounds,
        prompts,
        arguments.fit,
        arguments.output,
        arguments.report,
        arguments.plot,
        arguments.max_tokens,
        arguments.bad_lines == "skip",
    )
    calibrate(task, Console(highlight=False))
    return 0


def is_demo(target: str) -> bool:
    """Tell whether a target is the demo's, by its name or by its folder."""
    return target == DEMO or Path(target).resolve() == target_folder(DEMO).resolve()
