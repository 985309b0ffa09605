"""Idempotency keys: whoever asks twice under one key gets one job, on every gateway and at the same moment too.

A key is first held for a few seconds by the gateway that makes its job, then settled for as long as the job can live.
A gateway that dies in between leaves nothing that blocks: the hold lapses, and the next who asks makes the job.
"""

import hashlib

import msgspec
from msgspec import Struct

from client.wire import JobId
from service.door.tenants import Tenant
from service.storage.scripts import Call, Scripts

# How long a gateway may take to queue the jobs of one request before another may do it in its place.
HOLD_S = 10


class Held(Struct, frozen=True, forbid_unknown_fields=True):
    """What a key stands for: a job, the digest of the request it was made from, and whether it was made."""

    job_id: JobId
    digest: str
    is_settled: bool = False


def idempotency_key(tenant: Tenant, text: str) -> str:
    """Return the Redis key of a tenant's key, of which nothing enters it."""
    return f"specd:idem:{hashlib.sha256(tenant.own(text).encode()).hexdigest()}"


class IdempotencyKeys:
    """Holds, settles and drops keys. Methods take the Redis key and raise RedisError or OSError."""

    def __init__(self, scripts: Scripts, settled_s: int) -> None:
        self._scripts, self._settled_s = scripts, settled_s

    async def hold(self, key: str, wanted: Held) -> Held:
        """Hold a free key; return who holds it now."""
        return msgspec.json.decode(await self._swap(key, b"", msgspec.json.encode(wanted), HOLD_S), type=Held)

    async def settle(self, key: str, held: Held) -> bool:
        """Say that a held key's job was made; False if the hold lapsed and the key is free or another's."""
        settled = msgspec.json.encode(msgspec.structs.replace(held, is_settled=True))
        return await self._swap(key, msgspec.json.encode(held), settled, self._settled_s) == settled

    async def drop(self, key: str, held: Held) -> None:
        """Free a key, unless it stands for something else by now."""
        await self._swap(key, msgspec.json.encode(held), b"", 0)

    async def _swap(self, key: str, expected: bytes, new: bytes, ttl_s: int) -> bytes:
        answer: bytes = await self._scripts.run("swap", Call((key,), (expected, new, ttl_s)))
        return answer
