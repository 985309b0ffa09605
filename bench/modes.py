"""The ways to decode that a benchmark compares: a policy and a drafter by name, and the settings they stand for.

A mode is written POLICY[:VALUE][@DRAFTER], as in off, fixed:3, confidence:0.5 or confidence@ngram.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from core.config import SECTIONS, EngineSettings, PolicyChoice, Settings, nearest
from core.config_check import check_settings
from core.errors import ConfigError
from models.drafter_kind import drafter_kind
from models.hub import is_hub_id

# Loads no drafter and takes no features: the plainest decoding there is, and what all others are compared with.
BASELINE = "off"
DEFAULT_MODES = (BASELINE, "fixed:1", "fixed:3", "fixed:7", "confidence", "load_adaptive")


class Mode(Struct, frozen=True):
    """One way to decode."""

    name: str
    settings: Settings


def make_modes(names: Sequence[str], drafter: str, engine: EngineSettings) -> list[Mode]:
    """Return the modes of these names; `drafter` serves those that name none. Raises ConfigError."""
    if len(set(names)) != len(names):
        raise ConfigError(f"each mode may be given once, got {' '.join(names)}")
    return [Mode(name, mode_settings(name, drafter, engine)) for name in names]


def turned(modes: Sequence[Mode], build: int) -> list[Mode]:
    """Return the modes in the order of one build among several: each is the first one in its turn."""
    first = build % len(modes)
    return [*modes[first:], *modes[:first]]


def mode_settings(name: str, drafter: str, engine: EngineSettings) -> Settings:
    """Return the settings that a mode stands for; raises ConfigError if it is none."""
    written, has_drafter, own_drafter = name.partition("@")
    kind, has_value, value = written.partition(":")
    if kind not in SECTIONS["policy"]:
        raise ConfigError(f"unknown mode {name!r}; {nearest(kind, list(SECTIONS['policy']))}")
    policy = {"kind": kind}
    if has_value:
        # The field that a policy is known by comes first of those that are its own.
        common = PolicyChoice.__struct_fields__
        fields = [name for name in SECTIONS["policy"][kind].__struct_fields__ if name not in common]
        if not fields:
            raise ConfigError(f"mode {name!r} has a value, but {kind!r} takes none")
        policy[fields[0]] = value
    plain = kind == BASELINE and not has_drafter
    sections = {"policy": policy, "drafter": {"kind": "none"} if plain else _drafter(own_drafter or drafter)}
    try:
        parts = msgspec.convert(sections, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"mode {name!r} makes no settings: {error}") from error
    settings = msgspec.structs.replace(parts, engine=engine)
    check_settings(settings)
    return settings


def _drafter(name: str) -> dict[str, str]:
    if name in SECTIONS["drafter"]:
        return {"kind": name}
    if not Path(name).is_dir() and not is_hub_id(name):
        raise ConfigError(
            f"drafter must be a kind, a checkpoint folder or a Hub id, got {name!r}; "
            f"{nearest(name, list(SECTIONS['drafter']))}"
        )
    return {"kind": drafter_kind(name), "path": name}
