"""Redis servers with users, or with TLS, on this machine alone."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError

from client.redis_address import redis_address
from client.redis_executable import redis_executable
from core.processes import die_with_parent
from service.storage.redis_acl import acl_lines, read_passwords
from tests.conftest import until_it_answers


def is_redis_6() -> bool:
    said = subprocess.run([redis_executable(), "--version"], capture_output=True, text=True, check=True)
    return "v=6." in said.stdout


@contextmanager
def redis_with_users(folder: Path) -> Iterator[dict[str, str]]:
    """Run a Redis with the users of `specd redis-acl`; yield the address of each."""
    passwords = read_passwords(folder / "passwords")
    acl, socket = folder / "users.acl", folder / "redis.sock"
    acl.write_text("\n".join(acl_lines(passwords, redis_6=is_redis_6())) + "\n", encoding="utf-8")
    options = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--aclfile", str(acl), "--dir", str(folder)]
    with subprocess.Popen(
        [redis_executable(), *options], stdout=subprocess.DEVNULL, preexec_fn=die_with_parent
    ) as process:
        try:
            with Redis(unix_socket_path=str(socket)) as anybody:
                # Anybody may ask whether it lives.
                until_it_answers(anybody)
            yield {
                name: redis_address(f"unix://{name}@{socket}", str(folder / "passwords" / name)) for name in passwords
            }
        finally:
            process.terminate()


def refuses(url: str, *command: str) -> bool:
    """Tell whether a user may not do something."""
    with Redis.from_url(url, protocol=2) as client:
        try:
            client.execute_command(*command)
        except (NoPermissionError, AuthenticationError):
            return True
        return False
