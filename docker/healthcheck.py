"""Exit 0 if the container's own process does its work, for HEALTHCHECK: `healthcheck.py gateway|worker`.

A gateway has to answer; a worker has to have said in Redis, within the last lease, that it is alive.
"""

import os
import socket
import sys
from http import HTTPStatus
from http.client import HTTPConnection

from redis import Redis

from client.wire import WORKERS_KEY, worker_key

TIMEOUT_S = 4.0


def gateway_is_well() -> bool:
    """Ask the gateway of this container for its health."""
    connection = HTTPConnection("127.0.0.1", 8000, timeout=TIMEOUT_S)
    connection.request("GET", "/health")
    return connection.getresponse().status == HTTPStatus.OK


def worker_is_well() -> bool:
    """Look for a live worker whose name begins with this container's host name."""
    url = os.environ["SPECD_QUEUE__REDIS_URL"]
    client = Redis.from_url(url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, decode_responses=True)
    names = [name for name in client.smembers(WORKERS_KEY) if name.startswith(f"{socket.gethostname()}-")]
    return any(client.exists(worker_key(name)) for name in names)


if __name__ == "__main__":
    sys.exit(0 if {"gateway": gateway_is_well, "worker": worker_is_well}[sys.argv[1]]() else 1)
