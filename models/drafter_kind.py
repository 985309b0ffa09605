"""Which kind of drafter a checkpoint is, by its config.json alone. No torch."""

from core.config import CheckpointKind
from models.config_json import read_config
from models.folders import described_folder
from models.formats.translate import translate


def drafter_kind(name: str, revision: str | None = None) -> CheckpointKind:
    """Return the kind of a drafter: "demo", a folder or a Hub id, of which no weights are fetched.

    Raises CheckpointError if it is none that specd reads, ConfigError for a Hub id without the library.
    """
    folder = described_folder(name, revision)
    return translate(read_config(folder), name).kind
