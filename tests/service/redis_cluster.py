"""A real Redis Cluster on the loopback: three nodes that own a third of the slots each, with or without replicas."""

import random
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from core.processes import die_with_parent
from tests.conftest import until_it_answers

NUM_SLOTS = 16384
# A busy machine must not have nodes take each other for dead.
NODE_TIMEOUT_MS = 5000
# A node talks to the others on a port of its own, so far above the clients'.
BUS_OFFSET = 10_000
START_S = 30.0


class Server:
    """One Redis on a port of the loopback."""

    def __init__(self, executable: str, folder: Path, *options: str) -> None:
        self.port = _free_port()
        folder.mkdir()
        arguments = [
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""),
            *("--loglevel", "warning", *options),
        ]
        self.process = subprocess.Popen(
            [executable, *arguments], stdout=subprocess.DEVNULL, preexec_fn=die_with_parent, start_new_session=True
        )
        self.client = Redis(port=self.port)
        until_it_answers(self.client)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.client.close()
        self.kill()


class Node(Server):
    """One server of a Cluster."""

    def __init__(self, executable: str, folder: Path) -> None:
        super().__init__(executable, folder, "--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS))
        self.id = self.client.execute_command("CLUSTER MYID").decode()


class RedisCluster:
    """Primaries, and their replicas if there are any."""

    def __init__(self, nodes: list[Node], replicas: list[Node]) -> None:
        self.nodes, self.replicas = nodes, replicas

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.nodes[0].port}"

    def slot_of(self, key: str) -> int:
        return int(self.nodes[0].client.execute_command("CLUSTER KEYSLOT", key))

    def owner(self, key: str) -> Node:
        """Return the node that has a key, unless its slot was moved."""
        return self.nodes[min(self.slot_of(key) * len(self.nodes) // NUM_SLOTS, len(self.nodes) - 1)]

    def move(self, key: str, source: Node, to: Node) -> None:
        """Have a slot, with all that is in it, go from one node to another, as a resharding does."""
        slot = self.slot_of(key)
        to.client.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", source.id)
        source.client.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", to.id)
        while keys := source.client.execute_command("CLUSTER GETKEYSINSLOT", slot, 10):
            source.client.execute_command("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *keys)
        for node in (to, source, *self.nodes):
            node.client.execute_command("CLUSTER SETSLOT", slot, "NODE", to.id)

    def flush(self) -> None:
        for node in self.nodes:
            node.client.flushall()


@contextmanager
def server(executable: str, folder: Path) -> Iterator[Server]:
    """Run a Redis that belongs to no Cluster."""
    found = Server(executable, folder)
    try:
        yield found
    finally:
        found.close()


@contextmanager
def redis_cluster(executable: str, folder: Path, *, replicas: int = 0) -> Iterator[RedisCluster]:
    """Run a Cluster of three primaries, and so many replicas of each, for as long as the context lasts."""
    folder.mkdir(exist_ok=True)
    with ExitStack() as stack:
        nodes = [Node(executable, folder / str(index)) for index in range(3 * (1 + replicas))]
        for node in nodes:
            stack.callback(node.close)
        for index, node in enumerate(nodes[:3]):
            first, last = -(-index * NUM_SLOTS // 3), -(-(index + 1) * NUM_SLOTS // 3)
            node.client.execute_command("CLUSTER ADDSLOTS", *range(first, last))
            node.client.execute_command("CLUSTER SET-CONFIG-EPOCH", index + 1)
        for node in nodes[1:]:
            node.client.execute_command("CLUSTER MEET", "127.0.0.1", nodes[0].port)
        _until(lambda: all(_info(node)["cluster_known_nodes"] == str(len(nodes)) for node in nodes))
        for index, node in enumerate(nodes[3:]):
            node.client.execute_command("CLUSTER REPLICATE", nodes[index % 3].id)
        _until(lambda: all(_info(node)["cluster_state"] == "ok" for node in nodes))
        _until(lambda: all(_has_replicas(node, replicas) for node in nodes[:3]))
        yield RedisCluster(nodes[:3], nodes[3:])


def _info(node: Node) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in _lines(node.client.execute_command("CLUSTER INFO"))}


def _lines(told: object) -> list[tuple[bytes, bytes]]:
    if isinstance(told, dict):
        return [(name.encode(), value.encode()) for name, value in told.items()]
    return [tuple(line.split(b":", 1)) for line in told.splitlines() if b":" in line]


def _has_replicas(node: Node, wanted: int) -> bool:
    return int(node.client.info("replication")["connected_slaves"]) == wanted


def _until(holds) -> None:
    deadline = time.monotonic() + START_S
    while True:
        with suppress(RedisError):
            if holds():
                return
        if time.monotonic() > deadline:
            raise TimeoutError("the Cluster did not come up")
        time.sleep(0.05)


def _free_port() -> int:
    for _ in range(100):
        port = random.randrange(20_000, 50_000)
        try:
            with socket.create_server(("127.0.0.1", port)), socket.create_server(("127.0.0.1", port + BUS_OFFSET)):
                return port
        except OSError:
            continue
    raise OSError("no two ports are free")
