"""Whose word is taken for the law that its drafts were drawn from, and where the proofs of it are kept.

The drafters that specd ships are proved by its own tests. Any other is a stranger until `specd prove --drafter NAME`
has passed with the very source that would be loaded; editing it, or installing another version, makes it one again.
"""

import hashlib
import inspect
from pathlib import Path

import msgspec
import structlog
from msgspec import Struct

from core.errors import ConfigError
from core.registry import DRAFTERS
from core.whole_file import write_whole
from drafters.base import Drafter

log = structlog.get_logger()


class Identity(Struct, frozen=True):
    """Which drafter a proof is about: its registered name, its package's version, its source file's sha256."""

    name: str
    version: str
    source_sha256: str


class Proof(Struct, frozen=True):
    """That a drafter passed the certificate: by which specd, when, with how many checks."""

    identity: Identity
    specd: str
    finished: str
    num_checks: int


def trusts_law(name: str, drafter: Drafter | None, folder: Path | None) -> bool:
    """Tell whether the q_logits of a drafter registered as `name` may be used; folder is where proofs are kept."""
    if drafter is None or DRAFTERS.is_shipped(name):
        return True
    identity = identify(name, type(drafter))
    if folder is not None and is_proven(folder, identity):
        return True
    if not drafter.spec.point_mass:
        log.warning("drafter_unproven", drafter=name, effect="drafts count as point masses", cure=_cure(name))
    return False


def identify(name: str, kind: type) -> Identity:
    """Return what a proof of a drafter class holds for; raises ConfigError if its source cannot be read."""
    try:
        source = Path(inspect.getfile(kind)).read_bytes()
    except (TypeError, OSError) as error:
        raise ConfigError(f"drafter {name!r}: the source of {kind.__qualname__} cannot be read: {error}") from error
    return Identity(name, DRAFTERS.version(name), hashlib.sha256(source).hexdigest())


def is_proven(folder: Path, identity: Identity) -> bool:
    """Tell whether a proof of just this drafter is kept in `folder`; a file that cannot be read is none."""
    path = _path(folder, identity)
    if not path.is_file():
        return False
    try:
        proof = msgspec.json.decode(path.read_bytes(), type=Proof)
    except (msgspec.DecodeError, OSError) as error:
        log.warning("proof_unreadable", path=str(path), error=str(error))
        return False
    return proof.identity == identity


def keep(folder: Path, proof: Proof) -> Path:
    """Write a proof into `folder`, which is made, in one move; returns its path. Raises ConfigError if it cannot."""
    path = _path(folder, proof.identity)
    try:
        write_whole(path, msgspec.json.format(msgspec.json.encode(proof)))
    except OSError as error:
        raise ConfigError(f"the proof cannot be written to {path}: {error}; set engine.proof_dir") from error
    return path


def _path(folder: Path, identity: Identity) -> Path:
    key = hashlib.sha256(msgspec.json.encode(identity)).hexdigest()
    return folder / f"drafter-{key[:16]}.json"


def _cure(name: str) -> str:
    return f"specd prove --drafter {name}"
