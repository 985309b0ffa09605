"""Connections to Redis that pack commands with hiredis: redis-py's asyncio ones do so in Python, argument by argument.

A step of 64 streams is one command of some 400 arguments; packing it took half of what the stream writer takes.
"""

from typing import Any

import hiredis
from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection, UnixDomainSocketConnection

# A client opens as many as it has commands at once; redis-py would refuse the hundred-and-first, as if Redis were away.
MAX_CONNECTIONS = 4096


class _Packing:
    """Packs commands of words, bytes and numbers, as a connection does."""

    def pack_command(self, *args: Any) -> list[bytes]:
        """Return the command as it is sent; a name may be several words."""
        return [hiredis.pack_command((*args[0].encode().split(), *args[1:]))]


class _TcpConnection(_Packing, Connection):
    pass


class _TlsConnection(_Packing, SSLConnection):
    pass


class _UnixConnection(_Packing, UnixDomainSocketConnection):
    pass


PACKING = {Connection: _TcpConnection, SSLConnection: _TlsConnection, UnixDomainSocketConnection: _UnixConnection}


def packed(client: Redis) -> Redis:
    """Have a client's connections, none of which is open yet, pack with hiredis; returns it."""
    pool: ConnectionPool = client.connection_pool
    pool.connection_class = PACKING[pool.connection_class]
    return client
