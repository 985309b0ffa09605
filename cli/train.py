"""`specd train demo`: rebuild the demo pair from nothing."""

import argparse

import torch

from training.demo import DEMO_FOLDER, Plan, build


def run(arguments: argparse.Namespace) -> int:
    """Train within the given minutes and write the checkpoints."""
    torch.set_num_threads(arguments.threads)
    plan = Plan(
        run=arguments.run,
        output=arguments.output or DEMO_FOLDER,
        target_minutes=arguments.target_minutes,
        drafter_minutes=arguments.drafter_minutes,
        text_tokens=arguments.text_tokens,
        target_folder=arguments.target,
        kind=arguments.kind,
    )
    build(plan)
    return 0
