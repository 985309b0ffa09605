"""Exit 0 if the worker of this container serves, for HEALTHCHECK: it said so in Redis within the last lease.

`worker.py --alive` fails only where Redis answers and knows of no such worker: an outage of Redis is no reason to
start workers anew, which have models to load.
"""

import os
import socket
import sys

from redis import Redis
from redis.exceptions import RedisError

from client.wire import WORKERS_KEY, worker_key
from core.config_file import load_settings

TIMEOUT_S = 4.0


def is_well(client: Redis) -> bool:
    """Look for a live worker whose name begins with this container's host name. Raises RedisError."""
    names = [name for name in client.smembers(WORKERS_KEY) if name.startswith(f"{socket.gethostname()}-")]
    return any(client.exists(worker_key(name)) for name in names)


def main(only_alive: bool) -> int:
    """Return the exit status."""
    settings, _ = load_settings(None, os.environ, {})
    url = settings.queue.redis_url
    if url is None:
        print("SPECD_QUEUE__REDIS_URL is unset", file=sys.stderr)
        return 1
    client = Redis.from_url(url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, decode_responses=True)
    try:
        return 0 if is_well(client) else 1
    except (RedisError, OSError) as error:
        print(f"Redis does not answer: {error}", file=sys.stderr)
        return 0 if only_alive else 1


if __name__ == "__main__":
    sys.exit(main(only_alive="--alive" in sys.argv[1:]))
