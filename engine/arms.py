"""Experiments on a running engine: between two steps, whoever takes part comes to be planned by another arm."""

from collections.abc import Iterable
from functools import partial

from core.config import Settings
from core.experiments.spec import Experiment, arm_policies
from engine.build import make_policy
from engine.engine import Engine
from engine.groups import Arm, Choose


def make_arms(experiment: Experiment, settings: Settings) -> dict[str, Arm]:
    """Return an experiment's arms by name, each with a policy of its own; raises ConfigError for one that cannot be."""
    arms = {}
    for name, told in arm_policies(experiment, settings).items():
        # What cannot be made is said now.
        make_policy(told)
        arm = experiment.arms[name]
        made = partial(make_policy, told)
        arms[name] = Arm(f"{experiment.id}/{name}", made, arm.drafter or told.drafter, arm.max_drafts)
    return arms


def serve_arms(engine: Engine, choose: Choose | None) -> None:
    """Let requests be served by the arms that `choose` returns, those that run among them; None is by the defaults.

    To be called between steps. No text changes by it: each step is exact by itself, whoever plans it.
    """
    scheduler = engine.scheduler
    engine.groups.choose(choose, (*scheduler.running, *scheduler.waiting, *engine.grammar_pool.waiting))


def forget_arms(engine: Engine, names: Iterable[str]) -> None:
    """Let go of arms that nothing is served by any more, and of what their policies have learnt."""
    engine.groups.forget(names)
