"""A client of a Redis Cluster with the manners of the plain one: it fails in time and repeats no command by itself.

redis-py's leaves two things to who asks it never to repeat. What says that the Cluster cannot be reached is no
RedisError, and a pipeline that met a dead node asks the same one again: here both are faults of Redis like any other,
after which the next command looks anew who holds which slots. A command that a node sends elsewhere (MOVED, ASK) goes
there: it was not run.
"""

from typing import Any

from redis.asyncio.cluster import ClusterPipeline, RedisCluster
from redis.backoff import NoBackoff
from redis.exceptions import ClusterDownError, RedisClusterException, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from core.errors import ConfigError
from service.storage.redis_connections import MAX_CONNECTIONS, PACKING

# After these somebody else may hold a slot.
STALE = (RedisConnectionError, RedisTimeoutError, ClusterDownError)


class ClusterClient(RedisCluster):
    """A RedisCluster whose faults are RedisErrors; used wherever a plain client is."""

    async def initialize(self, *arguments: Any, **named: Any) -> "ClusterClient":
        """Find out who holds which slots; raises RedisError."""
        try:
            await super().initialize(*arguments, **named)
        except RedisClusterException as error:
            raise RedisConnectionError(str(error)) from error
        return self

    async def execute_command(self, *arguments: Any, **named: Any) -> Any:
        """Run one command; raises RedisError."""
        try:
            await self.initialize()
            return await super().execute_command(*arguments, **named)
        except RedisClusterException as error:
            self.look_anew()
            raise RedisConnectionError(str(error)) from error

    def pipeline(self, transaction: Any = None, shard_hint: Any = None) -> ClusterPipeline:  # noqa: ARG002 - the library's
        """Return a pipeline that runs as one per node, all at once; it is no transaction."""
        kind: Any = _Pipeline
        return kind(self, transaction)

    def look_anew(self) -> None:
        """Have the next command find out who holds which slots."""
        self._initialize = True

    async def infos(self, section: str) -> list[dict[str, Any]]:
        """Return what each primary tells of itself."""
        await self.initialize()
        return [await self.info(section, target_nodes=node) for node in self.get_primaries()]

    async def read_stream(self, key: str, after: str, count: int, block_ms: int) -> list[Any]:
        """Return the entries of one stream after an id, waiting for the first; raises RedisError.

        The library would ask a node first which of the command's arguments is its key.
        """
        await self.initialize()
        options = ("COUNT", count, "BLOCK", block_ms, "STREAMS", key, after)
        try:
            found: Any = await super().execute_command("XREAD", *options, target_nodes=self.get_node_from_key(key))
        except RedisClusterException as error:
            self.look_anew()
            raise RedisConnectionError(str(error)) from error
        return [row for _, rows in found or [] for row in rows]


class _Pipeline(ClusterPipeline):
    async def execute(self, raise_on_error: bool = True, allow_redirections: bool = True) -> list[Any]:
        """Run what was collected; raises RedisError: a node's, or, unless they are wanted as answers, a command's."""
        client: Any = self.cluster_client
        try:
            answers = await super().execute(False, allow_redirections)
        except RedisClusterException as error:
            client.look_anew()
            raise RedisConnectionError(str(error)) from error
        faults = [one for one in answers if isinstance(one, Exception)]
        if any(isinstance(one, STALE) for one in faults):
            client.look_anew()
        for fault in faults:
            if raise_on_error or not isinstance(fault, ResponseError):
                raise fault if isinstance(fault, RedisError) else RedisConnectionError(str(fault)) from fault
        return answers


def connect_cluster(url: str, timeout_s: float) -> ClusterClient:
    """Return a client of the Cluster that the node at `url` belongs to; raises ConfigError for a URL that cannot be."""
    retry = Retry(NoBackoff(), 0)
    try:
        client = ClusterClient.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=retry,
            protocol=2,
            max_connections=MAX_CONNECTIONS,
        )
    except RedisClusterException as error:
        raise ConfigError(f"queue.redis_url names no Redis Cluster: {error}") from error
    kwargs: Any = client.connection_kwargs
    kwargs["connection_class"] = PACKING[kwargs["connection_class"]]
    assert isinstance(client, ClusterClient)
    return client
