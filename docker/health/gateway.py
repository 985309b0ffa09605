"""Exit 0 if the gateway of this container answers and can serve, for HEALTHCHECK."""

import os
import sys
from http import HTTPStatus
from http.client import HTTPConnection

TIMEOUT_S = 4.0
PORT = 8000


def is_well(port: int) -> bool:
    """Ask the gateway for its health: Redis answers it, and a worker serves. Raises OSError if nobody listens."""
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    connection.request("GET", "/health")
    return connection.getresponse().status == HTTPStatus.OK


if __name__ == "__main__":
    sys.exit(0 if is_well(int(os.environ.get("SPECD_SERVER__PORT") or PORT)) else 1)
