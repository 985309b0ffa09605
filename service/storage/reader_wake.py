"""How a gateway's reader is woken that blocks: by an entry in a small stream that it reads beside those it follows."""

from redis.asyncio.client import Pipeline

# What a gateway that died leaves behind is gone soon.
WAKE_TTL_S = 60


def add_wake(pipe: Pipeline, stream: str) -> None:
    """Have a pipeline wake the reader of a stream."""
    pipe.xadd(stream, {"w": 1}, maxlen=1)
    pipe.expire(stream, WAKE_TTL_S)
