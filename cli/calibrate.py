"""`specd calibrate`: fit and judge what a drafter's confidence means, and write calibration.json."""

import argparse

from rich.console import Console

from cli.parser import drafter_flags
from core.config import NoDrafterSettings
from core.config_file import load_settings
from core.errors import ConfigError
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
    task = Task(
        settings,
        arguments.rounds,
        tuple(arguments.prompts or (PROMPTS,)),
        arguments.fit,
        arguments.output,
        arguments.report,
        arguments.plot,
        arguments.max_tokens,
        arguments.bad_lines == "skip",
    )
    calibrate(task, Console(highlight=False))
    return 0
