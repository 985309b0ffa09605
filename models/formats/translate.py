"""From any drafter's config.json to its dialect, its kind and its canonical config. No torch: command lines ask."""

from collections.abc import Callable

from msgspec import Struct

from core.config import CheckpointKind
from core.errors import CheckpointError
from models.formats import deepspec, eagle, specforge, speculators, zlab
from models.formats.block import is_dspark
from models.formats.dialect import Dialect
from models.formats.keys import Config, architectures
from models.formats.refused import refuse, refused_family

# The first that recognises a file reads it: SpecForge's DFlash bears z-lab's name and more keys.
DIALECTS: tuple[Dialect, ...] = (speculators, deepspec, specforge, zlab, eagle)
# How transformers names models that generate text.
MODEL = "ForCausalLM"


class Translation(Struct, frozen=True):
    """What a config.json says, in our words; `rename` maps its tensors (`Dialect.rename`)."""

    kind: CheckpointKind
    format: str
    config: Config
    rename: Callable[[str], str | None]

    @property
    def num_drafts(self) -> int:
        """How many tokens the drafter drafts in a step."""
        return num_drafts(self.config)


def is_drafter(config: Config) -> bool:
    """Tell whether config.json is a drafter's, be it one that is refused."""
    return refused_family(config) is not None or format_of(config) is not None


def format_of(config: Config) -> str | None:
    """Return the name of the format that a drafter's config.json has, None if it is of none that is read."""
    return next((dialect.NAME for dialect in DIALECTS if dialect.recognise(config)), None)


def translate(config: Config, source: str, num_target_layers: int | None = None) -> Translation:
    """Translate a drafter's config.json.

    num_target_layers is the target's depth; without it the canonical config has no target_layer_ids where the format
    leaves them to be found from that. Raises CheckpointError, naming `source` and the key, for what is not understood.
    """
    refuse(config, source)
    for dialect in DIALECTS:
        if dialect.recognise(config):
            try:
                made = dialect.translate(config, num_target_layers)
            except CheckpointError as error:
                raise CheckpointError(f"{source}: {error} (read as {dialect.NAME}'s format)") from error
            return Translation(kind_of(made), dialect.NAME, made, dialect.rename)
    named = ", ".join(architectures(config)) or "none"
    hint = '; a model that generates text by itself drafts with kind = "draft_model"' if named.endswith(MODEL) else ""
    raise CheckpointError(
        f"{source}: architectures names {named}, and no drafter of a format that specd reads; "
        f"it reads those of {', '.join(dialect.NAME for dialect in DIALECTS)}{hint}"
    )


def kind_of(translated: Config) -> CheckpointKind:
    """Return which kind of drafter a canonical config describes."""
    if "block_size" not in translated:
        return "eagle3"
    return "dspark" if is_dspark(translated) else "dflash"


def num_drafts(translated: Config) -> int:
    """Return how many tokens a drafter drafts in a step: its chain, or the slots of its block that predict."""
    if "block_size" not in translated:
        return int(translated["num_drafts"])
    return int(translated["block_size"]) - (0 if translated["sample_from_anchor"] else 1)
