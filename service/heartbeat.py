"""Keep a worker's claims alive from a thread of its own, as long as the engine makes progress.

A busy event loop or a long step must not cost a lease, so the beat has its own thread and connection; a stuck engine
must cost it, so the beat stops when no step has ended for `stall_s` although there is work. A worker that Redis could
not hear for a lease has lost what it held, and can know it without being told: it is cut off.
"""

import threading
import time
from typing import Any

import structlog
from redis import Redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.exceptions import RedisClusterException, RedisError
from redis.retry import Retry

from client.wire import PRIORITIES, WORKER_GROUP, queue_stream
from core.queue_settings import QueueSettings
from service.storage.claims import Entry
from service.storage.priority_streams import ids_by_priority

log = structlog.get_logger()

# A beat that failed is tried again after this long, or sooner if that is due.
RETRY_S = 0.5


class Heartbeat:
    """Renews the queue entries of one worker every third of a lease."""

    def __init__(self, url: str, settings: QueueSettings, model: str, worker: str) -> None:
        timeout_s = settings.lease_ms / 3000
        kind: Any = RedisCluster if settings.redis_cluster else Redis
        # A client that tries again by itself would fail too late for a lease.
        retry = Retry(NoBackoff(), 0)
        self._client = kind.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=retry)
        self.worker = worker
        self._streams = [queue_stream(model, priority) for priority in PRIORITIES]
        self._lease_ms = settings.lease_ms
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._entries: frozenset[Entry] = frozenset()
        self._stall_s = 10 * settings.lease_ms / 1000
        self._last_progress = self._last_beat = time.monotonic()
        self._has_failed = False

    def start(self) -> None:
        """Begin to beat."""
        self._last_beat = time.monotonic()
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

    @property
    def is_cut_off(self) -> bool:
        """Tell whether Redis could not be told of this worker for a lease: others may have its jobs."""
        # A beat that is only late, on a busy machine, finds out itself whether it came in time.
        return self._has_failed and time.monotonic() - self._last_beat > self._lease_ms / 1000

    def _run(self) -> None:
        beat_s = self._lease_ms / 3000
        while not self._stop.wait(min(RETRY_S, beat_s) if self._has_failed else beat_s):
            if self.is_stalled:
                log.error("engine_stalled", worker=self.worker, stall_s=self._stall_s)
            else:
                self._beat()

    def _beat(self) -> None:
        # From before it is sent: the lease that it renews cannot begin earlier.
        begun = time.monotonic()
        try:
            held = ids_by_priority(self._entries)
            if not held:
                # Of a Cluster the node matters that has the entries.
                self._client.xlen(self._streams[0])
            for priority, ids in held.items():
                stream = self._streams[priority]
                # JUSTID renews the idle time and does not raise the delivery count.
                self._client.xclaim(stream, WORKER_GROUP, self.worker, 0, ids, justid=True)
        except (RedisError, RedisClusterException, OSError) as error:
            self._has_failed = True
            log.warning("heartbeat_failed", worker=self.worker, error=str(error))
        else:
            self._last_beat, self._has_failed = begun, False
