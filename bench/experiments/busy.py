"""Clients that keep a running server busy and say nothing of speculation: they take part in whatever experiment runs.

    python -m bench.experiments.busy http://127.0.0.1:8000 --minutes 7

`specd bench --url` would not do: its requests name their policies, and such requests are left alone by experiments.
"""

import argparse
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rich.console import Console

from bench.load import Load, Questions
from bench.openai_stream import Connection
from bench.prompt_pool import PromptPool
from core.config_file import API_KEY_VARIABLE
from core.errors import SpecdError

# A client that is refused asks again after a while, unless it is refused so often running.
MOST_REFUSED, RETRY_S = 15, 1.0
# The demo's held-out questions, of which its drafter knows the last domain least.
DOMAINS = ("math", "code", "chat", "library")


def main() -> None:
    """Read the command line and ask for so long."""
    parser = argparse.ArgumentParser(description="Keep a running server busy.")
    parser.add_argument("url", help="of the server")
    parser.add_argument("--clients", type=int, default=24, help="requests at once (default %(default)s)")
    parser.add_argument("--minutes", type=float, default=7.0, help="(default %(default)s)")
    parser.add_argument("--domains", nargs="+", default=list(DOMAINS), help="of the prompts (default %(default)s)")
    parser.add_argument("--api-key", default=os.environ.get(API_KEY_VARIABLE), help=f"(default: ${API_KEY_VARIABLE})")
    arguments = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    pool = PromptPool(arguments.domains, 0)
    console.print(f"{arguments.clients} clients for {arguments.minutes:g} minutes; Ctrl-C ends them")
    with suppress(KeyboardInterrupt), kept_busy(arguments.url, pool, arguments.clients, arguments.api_key) as failed:
        until = time.monotonic() + 60 * arguments.minutes
        while time.monotonic() < until and not failed.wait(1.0):
            pass


@contextmanager
def kept_busy(url: str, pool: PromptPool, num_clients: int, api_key: str | None = None) -> Iterator[threading.Event]:
    """Keep clients asking until the block ends; yields what is set once the server fails.

    Raises QueueError at the end of the block if it did.
    """
    ended, failed = threading.Event(), threading.Event()
    errors: list[SpecdError] = []
    load = Load(num_clients, 1.0)
    questions, lock = Questions(pool, 0, load), threading.Lock()

    def ask() -> None:
        connection, refused = Connection(url, {}, api_key=api_key), 0
        while not (ended.is_set() or failed.is_set()):
            with lock:
                question = questions.take()
            try:
                # The pool begins anew sooner or later: no answer is to be helped by another's prefix.
                for _ in connection.ask(question, load.temperature, cache_salt=secrets.token_hex(8)):
                    if ended.is_set():
                        break
                refused = 0
            except SpecdError as error:
                # A server that is too busy says so, and means to be asked again.
                refused += 1
                if refused == MOST_REFUSED:
                    errors.append(error)
                    failed.set()
                ended.wait(RETRY_S)
        connection.close()

    clients = [threading.Thread(target=ask, daemon=True) for _ in range(num_clients)]
    for client in clients:
        client.start()
    try:
        yield failed
    finally:
        ended.set()
        for client in clients:
            client.join()
    if errors:
        raise errors[0]


if __name__ == "__main__":
    try:
        main()
    except SpecdError as error:
        raise SystemExit(f"bench: {error}") from error
