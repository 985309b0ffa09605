"""API keys: a TOML file with a hash of each, whom it belongs to, and what they may ask for.

    [keys.alice]
    sha256 = "9f86d0…"
    requests_per_minute = 600

A key is 256 random bits, so that its plain hash tells nothing of it. The file is read again when it changes: a key that
is made or revoked counts within a second, without a restart.
"""

import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
import structlog
from msgspec import Meta

from core.config import nearest
from core.config_file import NAME
from core.errors import ConfigError
from core.toml_file import read_toml
from service.door.tenants import Limits, Tenant

log = structlog.get_logger()

PREFIX = "sk-specd-"
# How long a key that was revoked may still be good.
LOOK_S = 1.0
# No key of ours is nearly as long; what is longer is not even hashed.
MAX_CHARS = 512


class ApiKey(Limits, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key by its hash. tenant names the owner, if several keys have the same one; None is the key's own name."""

    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    tenant: Annotated[str, Meta(pattern=f"^{NAME.pattern}$")] | None = None


class KeyRing:
    """The keys of a file. Raises ConfigError when it is made of a file that cannot be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys = read_keys(path)
        self._version, self._looked_at_s = _version(path), time.monotonic()

    def tenant(self, key: str) -> Tenant | None:
        """Return whom a key belongs to, None for one that is unknown; takes as long for every key."""
        self._look()
        if len(key) > MAX_CHARS:
            return None
        found, digest = None, hash_of(key)
        for name, known in self._keys.items():
            if hmac.compare_digest(known.sha256, digest):
                found = Tenant(known.tenant or name, known)
        return found

    def _look(self) -> None:
        """Read the file again if it has changed; one that cannot be read leaves the keys as they were."""
        now_s = time.monotonic()
        if now_s - self._looked_at_s < LOOK_S:
            return
        self._looked_at_s = now_s
        if (version := _version(self._path)) == self._version:
            return
        self._version = version
        try:
            self._keys = read_keys(self._path)
        except ConfigError as error:
            log.error("api_keys_unreadable", error=str(error))  # noqa: TRY400 - the error says it all
        else:
            log.info("api_keys_read", keys=len(self._keys))


def new_key() -> str:
    """Return a fresh key."""
    return PREFIX + secrets.token_urlsafe(32)


def hash_of(key: str) -> str:
    """Return what of a key is kept."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def read_keys(path: Path) -> dict[str, ApiKey]:
    """Return the keys of a file by name; raises ConfigError that names what is wrong with it."""
    document = read_toml(path, "the API keys in")
    if unknown := [section for section in document if section != "keys"]:
        raise ConfigError(f"{path}: unknown section {unknown[0]!r}; keys are tables [keys.NAME]")
    tables = document.get("keys", {})
    if not isinstance(tables, dict):
        raise ConfigError(f"{path}: keys are tables [keys.NAME], got {tables!r}")
    return {name: _read_key(path, name, table) for name, table in tables.items()}


def write_keys(path: Path, keys: Mapping[str, ApiKey]) -> None:
    """Replace the file by one with these keys, readable for its owner only; raises ConfigError."""
    lines = ["# Made by `specd keys`; a line may be changed by hand."]
    for name, key in keys.items():
        fields = msgspec.to_builtins(key)
        told = {field: value for field, value in fields.items() if value is not None and value != _DEFAULTS.get(field)}
        lines += ["", f"[keys.{name}]", *(f"{field} = {json.dumps(value)}" for field, value in told.items())]
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
        fresh.replace(path)
    except OSError as error:
        raise ConfigError(f"cannot write the API keys to {path}: {error.strerror}") from error


def _read_key(path: Path, name: str, table: object) -> ApiKey:
    if not NAME.fullmatch(name):
        raise ConfigError(f"{path}: a key's name is 1 to 64 of A-Z a-z 0-9 _ -, got {name!r}")
    if isinstance(table, dict):
        known = ApiKey.__struct_fields__
        for field in table:
            if field not in known:
                raise ConfigError(f"{path}: unknown keys.{name}.{field}; {nearest(field, list(known))}")
    try:
        return msgspec.convert(table, ApiKey)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: keys.{name}: {error}") from error


def _version(path: Path) -> tuple[int, int, int]:
    """Return what changes with the file; zeros where there is none."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_mtime_ns, found.st_size


_DEFAULTS = msgspec.to_builtins(Limits())
