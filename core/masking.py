"""Settings and values without the credentials in them, for showing and logging."""

import msgspec

from core.config import Settings


def without_secrets(settings: Settings) -> Settings:
    """Return the settings with the credentials of redis_url masked, for showing and logging."""
    url = settings.queue.redis_url
    if url is None:
        return settings
    return msgspec.structs.replace(settings, queue=msgspec.structs.replace(settings.queue, redis_url=shown(url)))


def shown(value: object) -> object:
    """Return a value fit for messages: a URL loses its user and password."""
    if isinstance(value, str) and "://" in value and "@" in value:
        scheme, _, rest = value.partition("://")
        return f"{scheme}://***@{rest.rpartition('@')[2]}"
    return value
