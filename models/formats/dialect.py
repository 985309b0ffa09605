"""What each dialect of drafter checkpoints offers; its functions stand in the file named after it."""

from typing import Protocol

from models.formats.keys import Config


class Dialect(Protocol):
    """A way to write a drafter's checkpoint. The modules of this package that read one are such."""

    NAME: str

    def recognise(self, config: Config) -> bool:
        """Tell whether a config.json is of this dialect."""
        ...

    def translate(self, config: Config, num_target_layers: int | None) -> Config:
        """Return the canonical config, complete with every default.

        num_target_layers is the target's depth if it is known; without it, layer ids that are the format's default
        for a depth that the file does not tell stay out. Raises CheckpointError naming the key that is not served.
        """
        ...

    def rename(self, name: str) -> str | None:
        """Return a tensor's canonical name, None for one that the drafter does not use."""
        ...
