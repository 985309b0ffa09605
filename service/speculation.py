"""What requests may ask of speculation: the drafters and policies that this server has under their names."""

from msgspec import Struct

from core.config import Settings, all_drafters, all_policies, nearest
from core.errors import RequestError
from core.types import Speculation


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
