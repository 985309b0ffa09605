"""Packages for a machine where none can be installed: wheels from a folder, unpacked where Python finds them.

Standard library only: it runs before anything else of specd may be imported.
"""

import zipfile
from importlib.util import find_spec
from pathlib import Path

# What the layers up to the engine need beyond torch and what torch and transformers bring, by import and as pip has it.
NEEDED = {"msgspec": "msgspec>=0.20", "numpy": "numpy", "structlog": "structlog>=25", "llguidance": "llguidance>=1.9"}
# The trainer's progress bar and loss curve, and the report's figures.
NEEDED_TO_DRAW = {"rich": "rich", "matplotlib": "matplotlib"}

DOWNLOAD = (
    "pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp "
    "--platform manylinux_2_31_x86_64 --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 "
    "--platform manylinux2014_x86_64 "
    "-d bench/gpu/carried"
)


def unpack(folder: Path, site: Path) -> list[str]:
    """Unpack every wheel of a folder into `site`, which then belongs on Python's path; returns their file names.

    Raises OSError and zipfile.BadZipFile for a folder or wheel that cannot be read.
    """
    names = []
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
        names.append(wheel.name)
    return names


def missing(needed: dict[str, str], site: Path | None) -> list[str]:
    """Return what pip calls the packages that are neither installed nor in `site`."""
    return [
        told
        for package, told in needed.items()
        if find_spec(package) is None and not (site and (site / package).exists())
    ]
