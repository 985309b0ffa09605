"""Loads drafters into the engine of this process and takes them out again."""

from functools import partial

import torch

from core.config import DrafterSettings, EngineSettings
from core.errors import ConfigError
from engine.build import load_into, make_drafter
from engine.engine import Engine
from engine.speculator import NO_DRAFTER
from service.engine_process.thread import Change


class EngineHost:
    """Prepares drafters beside the target of one engine (`DrafterHost`)."""

    def __init__(self, engine: Engine, settings: EngineSettings) -> None:
        self._engine, self._settings = engine, settings

    def prepare(self, name: str, settings: DrafterSettings) -> Change:
        """Read a drafter's checkpoint; raises CheckpointError and ConfigError."""
        # Threads of torch are counted per thread that asks: reading must not take the cores of the step.
        torch.set_num_threads(self._settings.num_threads)
        drafter = make_drafter(settings, self._engine.target, self._engine.tokenizer)
        if drafter is None:
            raise ConfigError(f"there is nothing to load for drafter {name!r}")
        return partial(load_into, self._engine, name, settings, drafter, self._settings)

    def unload(self, name: str) -> None:
        """Take a drafter out."""
        self._engine.unload_drafter(name)

    def expect(self, name: str) -> None:
        """Let requests that name a drafter decode plainly while it is not loaded."""
        if name not in self._engine.memory.speculators:
            self._engine.memory.speculators.absent.add(name)

    def kv_mib(self) -> dict[str, float]:
        """Return the KV memory of every drafter that is loaded."""
        speculators = list(self._engine.memory.speculators.items())
        return {n: each.kv.num_bytes / (1 << 20) if each.kv else 0.0 for n, each in speculators if n != NO_DRAFTER}
