"""A Redis that can be killed and started again over what it had written."""

import asyncio
import subprocess
from pathlib import Path

from redis import Redis

from core.processes import die_with_parent
from tests.conftest import until_it_answers


class RedisProcess:
    """An append-only Redis on a unix socket in `folder`.

    It syncs every write: with `everysec` Redis may hold writes back in its own memory while a sync runs, and a kill -9
    on a busy disk then loses what clients have seen. With keeps_data False it keeps nothing.
    """

    def __init__(self, executable: str, folder: Path, *, keeps_data: bool = True) -> None:
        self._executable, self._folder, self.socket = executable, folder, str(folder / "redis.sock")
        self._appends = ("--appendonly", "yes", "--appendfsync", "always") if keeps_data else ("--appendonly", "no")
        self.start()

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        arguments = [
            *("--port", "0", "--unixsocket", self.socket, "--dir", str(self._folder), "--save", ""),
            *(*self._appends, "--maxmemory-policy", "noeviction"),
        ]
        self._process = subprocess.Popen(
            [self._executable, *arguments], stdout=subprocess.DEVNULL, preexec_fn=die_with_parent
        )
        with Redis(unix_socket_path=self.socket) as client:
            until_it_answers(client)

    async def kill_and_restart(self) -> None:
        """Kill -9 and start again over the append-only file."""
        self.kill()
        await asyncio.sleep(0.2)
        await asyncio.to_thread(self.start)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
