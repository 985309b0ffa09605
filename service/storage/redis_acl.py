"""What each part of the service may do in Redis, as users of its access control list.

A worker that is taken over can spoil answers of its model, but reads no intake, no idempotency key and no tenant's
limits; who may only submit reads nothing but the streams whose ids it knows. Nobody but `admin` can empty, configure or
list anything. tests/security/test_redis_acl.py runs the service as these users.
"""

import hashlib
import secrets
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from core.errors import ConfigError

# What a client has to ask before it knows which node of a Cluster to ask, and says where a slot is on its way.
IN_A_CLUSTER = ("cluster|slots", "command", "asking")
JOB_KEYS = ("specd:{*}:job", "specd:{*}:out")


class Role(Struct, frozen=True):
    """What one user may do: commands and the keys they may touch, as patterns.

    written and read are keys that it may only write or only read, which Redis 6 cannot tell apart.
    """

    commands: tuple[str, ...]
    keys: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
    read: tuple[str, ...] = ()


ROLES = {
    "gateway": Role(
        (
            *("ping", "select", "time", "info", "script|load", "evalsha"),
            *("xadd", "xread", "xrange", "xlen", "xdel", "xack", "xreadgroup", "xautoclaim", "xgroup|create"),
            *("xinfo|groups", "xinfo|consumers", "xgroup|delconsumer"),
            *("hget", "hset", "hmget", "hdel", "hgetall", "hexists", "hincrby"),
            *("zadd", "zrem", "zcard", "zrange", "zrangebyscore", "sadd", "srem", "smembers"),
            *("get", "set", "del", "exists", "expire", "pexpire", "pttl"),
            *IN_A_CLUSTER,
        ),
        ("specd:*",),
    ),
    "worker": Role(
        (
            *("ping", "select", "time", "info", "script|load", "evalsha"),
            *("xadd", "xrange", "xlen", "xdel", "xack", "xreadgroup", "xautoclaim", "xclaim", "xgroup|create"),
            *("xinfo|groups", "hget", "hset", "hmget", "hgetall", "hexists", "hincrby"),
            *("sadd", "del", "expire", "pexpire"),
            *IN_A_CLUSTER,
        ),
        (*JOB_KEYS, "specd:q:*", "specd:dead:*", "specd:d:*", "specd:w:*", "specd:workers", "specd:x:*", "specd:xu:*"),
    ),
    "client": Role(
        ("ping", "select", "xadd", "xread", *IN_A_CLUSTER), written=("specd:intake",), read=("specd:{*}:out",)
    ),
}
ADMIN = "admin"
# Whoever has not said who he is may see that Redis lives, as health checks do.
DEFAULT = "user default on nopass resetkeys resetchannels -@all +ping"


def acl_lines(passwords: Mapping[str, str], *, redis_6: bool = False) -> list[str]:
    """Return the lines of Redis's `aclfile`; passwords are those of `ROLES` and ADMIN, of which hashes are told."""
    lines = [DEFAULT, f"user {ADMIN} on {_hash(passwords[ADMIN])} ~* resetchannels &* +@all"]
    for name, role in ROLES.items():
        keys = [f"~{key}" for key in role.keys]
        for sign, some in (("%W", role.written), ("%R", role.read)):
            keys += [f"{'' if redis_6 else sign}~{key}" for key in some]
        commands = [f"+{command}" for command in role.commands]
        lines.append(
            " ".join(
                ["user", name, "on", _hash(passwords[name]), "resetkeys", "resetchannels", *keys, "-@all", *commands]
            )
        )
    return lines


def read_passwords(folder: Path) -> dict[str, str]:
    """Return each user's password from its file in a folder, making those that are not there; raises ConfigError."""
    found = {}
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in (*ROLES, ADMIN):
            path = folder / name
            if not path.exists():
                path.touch(mode=0o600)
                path.write_text(secrets.token_urlsafe(32) + "\n", encoding="utf-8")
            found[name] = path.read_text(encoding="utf-8").strip()
            if not found[name]:
                raise ConfigError(f"the password file {path} is empty; remove it, and it is made anew")
    except OSError as error:
        raise ConfigError(f"cannot keep passwords in {folder}: {error.strerror}") from error
    return found


def _hash(password: str) -> str:
    return f"#{hashlib.sha256(password.encode()).hexdigest()}"
