"""Experiments on a running engine: between two steps, whoever takes part comes to be planned by another arm."""

from collections.abc import Iterable

from engine.engine import Engine
from engine.groups import Choose


def serve_arms(engine: Engine, choose: Choose | None) -> None:
    """Let requests be served by the arms that `choose` returns, those that run among them; None is by the defaults.

    To be called between steps. No text changes by it: each step is exact by itself, whoever plans it.
    """
    scheduler = engine.scheduler
    engine.groups.choose(choose, (*scheduler.running, *scheduler.waiting, *engine.grammar_pool.waiting))


def forget_arms(engine: Engine, names: Iterable[str]) -> None:
    """Let go of arms that nothing is served by any more, and of what their policies have learnt."""
    engine.groups.forget(names)
