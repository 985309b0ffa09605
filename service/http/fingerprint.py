"""The `system_fingerprint` of OpenAI's answers: a word that changes with what an answer to a seed depends on."""

import hashlib
from importlib.metadata import version

import msgspec

from core.config import Settings


def system_fingerprint(settings: Settings) -> str:
    """Return the fingerprint of a service: of the target, its numerics and specd's version.

    Drafters and policies are not in it, for they change no text under a seed.
    """
    engine = settings.engine
    told = (version("specd"), engine.target, engine.target_revision, engine.dtype, engine.numerics, engine.verifier)
    return f"fp_{hashlib.sha256(msgspec.json.encode(told)).hexdigest()[:12]}"
