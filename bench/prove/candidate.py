"""The drafter that `specd prove --drafter NAME` is about, made on the tiny target as settings without options would."""

from bench.prove.cells import DRAFTERS as SHIPPED
from bench.prove.cells import MakeDrafter
from core.config import PluginSettings
from core.plugins import make_plugin
from core.registry import DRAFTERS
from drafters.base import Drafter
from models.qwen3 import Qwen3


def candidate(name: str) -> MakeDrafter:
    """Return how to make the named drafter; raises ConfigError if there is none of that name.

    A shipped one is made small. A class of an installed package gets the target if its signature names one.
    """
    if DRAFTERS.is_shipped(name):
        return SHIPPED[name]

    def make(target: Qwen3) -> Drafter:
        drafter: Drafter = make_plugin(PluginSettings(name), DRAFTERS, {"target": target})
        return drafter

    return make
