"""Where a named model lies on disk: the demo's, a folder, or one of the Hugging Face Hub. No torch."""

from pathlib import Path

from core.errors import CheckpointError, ConfigError
from models.hub import config_folder, is_hub_id, is_pinned, snapshot_folder

DEMO = "demo"
DEMO_FOLDER = Path(__file__).parent / DEMO


def target_folder(name: str, revision: str | None = None) -> Path:
    """Return the folder of a target: "demo", a folder, or a Hub id, which is fetched if it is not there.

    Raises ConfigError for a revision of what has none, and what `models.hub.snapshot_folder` raises.
    """
    return _folder(name, revision, "target", whole=True)


def drafter_folder(kind: str, name: str, revision: str | None = None) -> Path:
    """Return the folder of a drafter of this kind (`target_folder`)."""
    return _folder(name, revision, kind, whole=True)


def described_folder(name: str, revision: str | None = None, demo: str = "dspark") -> Path:
    """Return a folder with at least the model's config.json: a Hub id is not fetched for its weights."""
    return _folder(name, revision, demo, whole=False)


def is_unpinned(name: str, revision: str | None) -> bool:
    """Tell whether a name stands for whatever the Hub has under it that day."""
    return name != DEMO and not Path(name).is_dir() and is_hub_id(name) and not is_pinned(revision)


def _folder(name: str, revision: str | None, demo: str, *, whole: bool) -> Path:
    here = DEMO_FOLDER / demo if name == DEMO else Path(name)
    if name == DEMO or here.is_dir() or not is_hub_id(name):
        if revision is not None:
            raise ConfigError(f"{name} is a folder and has no revisions; leave revision {revision!r} out")
        return here
    try:
        return snapshot_folder(name, revision) if whole else config_folder(name, revision)
    except CheckpointError as error:
        raise CheckpointError(f"there is no folder {name!r} here, and as a Hub id: {error}") from error
