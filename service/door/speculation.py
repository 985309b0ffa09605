"""What requests may ask of speculation: the drafters and policies that this server has under their names."""

import msgspec
from msgspec import Struct

from core.config import Settings, all_drafters, all_policies, nearest
from core.errors import RequestError
from core.types import Speculation
from service.queue import JobQueue
from service.telemetry.worker_metrics import read_workers


class KnownNames(Struct, frozen=True):
    """Names that a request's `speculation` may use."""

    drafters: tuple[str, ...]
    policies: tuple[str, ...]

    def check(self, asked: Speculation) -> None:
        """Raise RequestError for a name that is not configured, with the nearest one that is."""
        for field, name, known in (
            ("drafter", asked.drafter, self.drafters),
            ("policy", asked.policy, self.policies),
        ):
            if name is not None and name not in known:
                raise RequestError(
                    f"speculation.{field} {name!r} is not configured; {nearest(name, list(known))}", param="speculation"
                )


def known_names(settings: Settings) -> KnownNames:
    """Return the names that the engine of these settings serves."""
    return KnownNames(tuple(all_drafters(settings)), tuple(all_policies(settings)))


async def known_now(names: KnownNames, asked: Speculation, queue: JobQueue) -> KnownNames:
    """Return the names with those of drafters that were loaded later, where a request needs one of them.

    That is a drafter that some worker has and all have heard of: whichever claims the job, it does not fail for it.
    Raises RedisError or OSError while Redis is out of reach.
    """
    if asked.drafter is None or asked.drafter in names.drafters:
        return names
    workers = (await read_workers(queue)).stats.values()
    heard = [{one.name for one in stats.drafters} for stats in workers]
    serving = {one.name for stats in workers for one in stats.drafters if one.serves}
    later = serving.intersection(*heard) - set(names.drafters)
    return msgspec.structs.replace(names, drafters=(*names.drafters, *sorted(later)))
