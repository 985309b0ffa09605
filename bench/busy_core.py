"""Keep a core busy: `python -m bench.busy_core`. Each line of stdin is the share of it to use from now on."""

import json
import os
import sys
import time

PERIOD_S = 0.01
# What gateways and clients do all day.
EVENT = {"id": "cmpl-1", "choices": [{"index": 0, "text": " a few tokens", "finish_reason": None}], "usage": None}


def main() -> None:
    """Say that it has begun, then work and rest by turns until stdin ends."""
    os.set_blocking(sys.stdin.fileno(), False)
    share = 0.0
    print("begun", flush=True)
    while True:
        told = sys.stdin.buffer.read()
        if told == b"":
            return
        if told:
            share = min(1.0, float(told.split()[-1]))
        begun_s = time.perf_counter()
        while time.perf_counter() - begun_s < share * PERIOD_S:
            json.loads(json.dumps(EVENT))
        time.sleep(max(0.0, begun_s + PERIOD_S - time.perf_counter()))


if __name__ == "__main__":
    main()
