"""Keep a worker's claims alive from a thread of its own, as long as the engine makes progress.

A busy event loop or a long step must not cost a lease, so the beat has its own thread and connection; a stuck engine
must cost it, so the beat stops when no step has ended for `stall_s` although there is work.
"""

import threading
import time
from typing import Any

import structlog
from redis import Redis
from redis.exceptions import RedisError

from client.wire import PRIORITIES, WORKER_GROUP, queue_stream
from core.config import QueueSettings
from service.claims import Entry
from service.priority_streams import ids_by_priority

log = structlog.get_logger()


class Heartbeat:
    """Renews the queue entries of one worker every third of a lease."""

    def __init__(self, url: str, settings: QueueSettings, model: str, worker: str) -> None:
        timeout_s = settings.lease_ms / 3000
        self._client = Redis.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s)
        self.worker = worker
        self._streams = [queue_stream(model, priority) for priority in PRIORITIES]
        self._lease_ms = settings.lease_ms
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._entries: frozenset[Entry] = frozenset()
        self._stall_s = 10 * settings.lease_ms / 1000
        self._last_progress = self._last_beat = time.monotonic()

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self) -> None:
        """Stop beating and wait for the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._client.close()

    def hold(self, entries: frozenset[Entry]) -> None:
        """Say which entries are in this worker's hands; replaces what was said before."""
        self._entries = entries

    def progress(self) -> None:
        """Say that the engine has finished a step or has nothing to do."""
        self._last_progress = time.monotonic()

    @property
    def is_stalled(self) -> bool:
        """Tell whether the engine has been silent for too long to keep, or take, any job."""
        return time.monotonic() - self._last_progress > self._stall_s

    @property
    def age_s(self) -> float:
        """How long ago the claims were last renewed, or were found to be none."""
        return time.monotonic() - self._last_beat

    def _run(self) -> None:
        while not self._stop.wait(self._lease_ms / 3000):
            if self.is_stalled:
                log.error("engine_stalled", worker=self.worker, stall_s=self._stall_s)
            else:
                self._beat()

    def _beat(self) -> None:
        try:
            for priority, ids in ids_by_priority(self._entries).items():
                stream: Any = self._streams[priority]
                # JUSTID renews the idle time and does not raise the delivery count.
                self._client.xclaim(stream, WORKER_GROUP, self.worker, 0, ids, justid=True)  # type: ignore[arg-type]
            self._last_beat = time.monotonic()
        except (RedisError, OSError) as error:
            log.warning("heartbeat_failed", worker=self.worker, error=str(error))
