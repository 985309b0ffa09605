"""The `system_fingerprint` of OpenAI's answers: a word that changes with what an answer to a seed depends on."""

import hashlib
from importlib.metadata import version

import msgspec

from core.config import Settings
from core.types import SamplingDefaults


def system_fingerprint(settings: Settings, defaults: SamplingDefaults) -> str:
    """Return the fingerprint of a service: of the target, its numerics, what it draws by and specd's version.

    Drafters and policies are not in it, for they change no text under a seed.
    """
    engine = settings.engine
    computes = (engine.target, engine.target_revision, engine.dtype, engine.numerics, engine.verifier)
    told = msgspec.json.encode((version("specd"), *computes, defaults))
    return f"fp_{hashlib.sha256(told).hexdigest()[:12]}"
