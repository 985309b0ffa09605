"""`specd eval`: what drafters are worth on a target's own answers, by the real engine."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console

from bench.logs import show_warnings_only
from bench.report import describe_run
from cli.parser import drafter_flags
from core.config import DrafterSettings, EngineSettings, NoDrafterSettings, nearest
from core.config_file import load_settings
from core.errors import ConfigError
from core.registry import POLICIES
from models.drafter_kind import drafter_kind
from training.evaluation.command import Asked, evaluate
from training.evaluation.evaluate import Options
from training.evaluation.task_files import Reading

DEFAULT_DRAFTERS = ("dspark",)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, print tables and write files; returns 0. Raises ConfigError and CheckpointError."""
    show_warnings_only()
    if arguments.policy not in POLICIES.names():
        raise ConfigError(f"unknown policy {arguments.policy!r}; {nearest(arguments.policy, POLICIES.names())}")
    named = named_drafters(arguments.drafter or DEFAULT_DRAFTERS)
    options = {
        "temperatures": tuple(dict.fromkeys(arguments.temperature)),
        "max_tokens": arguments.max_tokens,
        "thresholds": tuple(sorted({each for each in arguments.thresholds if each > 0})),
        "contexts": tuple(sorted(set(arguments.contexts))),
        "speed": arguments.speed,
        "policy": arguments.policy,
    }
    engine = {
        "target": arguments.target,
        "target_revision": arguments.target_revision,
        "dtype": arguments.dtype,
        "max_num_seqs": arguments.concurrency,
        "max_model_len": arguments.max_model_len,
        "num_threads": arguments.threads,
        "profile": arguments.speed > 0,
    }
    try:
        asked = Asked(
            msgspec.convert(engine, EngineSettings),
            {name: drafter_settings(said) for name, said in named.items()},
            named,
            tuple(arguments.tasks),
            msgspec.convert(
                {
                    "limit": arguments.limit,
                    "every_turn": arguments.every_turn,
                    "skips_bad_lines": arguments.bad_lines == "skip",
                },
                Reading,
            ),
            msgspec.convert(options, Options),
            arguments.output,
            describe_run,
        )
    except msgspec.ValidationError as error:
        raise ConfigError(f"this cannot be evaluated: {error}") from error
    evaluate(asked, Console(highlight=False))
    return 0


def named_drafters(said: Sequence[str]) -> dict[str, str]:
    """Return name -> kind, folder or Hub id; a drafter without a name is called by its kind. Raises ConfigError."""
    named: dict[str, str] = {}
    for text in said:
        name, separator, origin = text.partition("=")
        if not separator:
            origin = text
            name = drafter_kind(text) if Path(text).is_dir() or "/" in text else text
        if not name or not origin:
            raise ConfigError(f"--drafter must be [NAME=]KIND|PATH|HUB_ID, got {text!r}")
        if name in named:
            raise ConfigError(f"two drafters are called {name!r}; name them, as in --drafter mine={origin}")
        named[name] = origin
    return named


def drafter_settings(said: str) -> DrafterSettings:
    """Return the settings of a kind, a folder or a Hub id; raises ConfigError."""
    settings, _ = load_settings(None, {}, drafter_flags(said))
    if isinstance(settings.drafter, NoDrafterSettings):
        raise ConfigError("--drafter none has nothing to evaluate; plain decoding is what --speed compares with")
    return settings.drafter
