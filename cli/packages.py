"""Make sure that our top-level packages are the ones Python finds: others use such plain names too."""

from importlib.util import find_spec
from pathlib import Path

import core
from core.errors import ConfigError

PACKAGES = (
    "core",
    "kernels",
    "client",
    "models",
    "drafters",
    "policies",
    "engine",
    "service",
    "training",
    "bench",
    "cli",
)


def check_packages(root: Path | None = None) -> None:
    """Raise ConfigError if a package of ours is shadowed, as Hugging Face's `kernels` does when installed."""
    root = root or Path(str(core.__file__)).parents[1]
    for name in PACKAGES:
        spec = find_spec(name)
        found = Path(spec.origin).parent if spec and spec.origin else None
        if found != root / name:
            raise ConfigError(
                f"package {name!r} must come from {root / name}, but Python finds {found or 'nothing'}: "
                f"another distribution shadows it; run `pip uninstall {name}`, or give specd its own environment"
            )
