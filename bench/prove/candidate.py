"""The drafter that `specd prove --drafter NAME` is about, made on the tiny target as settings without options would."""

import inspect

from bench.prove.cells import DRAFTERS as SHIPPED
from bench.prove.cells import MakeDrafter
from core.errors import ConfigError
from core.registry import DRAFTERS
from drafters.base import Drafter
from models.qwen3 import Qwen3


def candidate(name: str) -> MakeDrafter:
    """Return how to make the named drafter; raises ConfigError if there is none of that name.

    A shipped one is made small. A class of an installed package gets the target if its signature names one.
    """
    if DRAFTERS.is_shipped(name):
        return SHIPPED[name]
    kind = DRAFTERS.load(name)

    def make(target: Qwen3) -> Drafter:
        given = {"target": target} if "target" in inspect.signature(kind).parameters else {}
        try:
            drafter: Drafter = kind(**given)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"drafter {name!r} cannot be made without settings: {error}") from error
        return drafter

    return make
