"""Where a named model lies on disk. No torch, so that a gateway can ask."""

from pathlib import Path

DEMO = "demo"
DEMO_FOLDER = Path(__file__).parent / DEMO


def target_folder(name: str) -> Path:
    """Return the folder of a target: "demo", or a path."""
    return DEMO_FOLDER / "target" if name == DEMO else Path(name)


def dspark_folder(name: str) -> Path:
    """Return the folder of a DSpark checkpoint: "demo", or a path."""
    return DEMO_FOLDER / "dspark" if name == DEMO else Path(name)
