"""Whom requests come from, and what each may ask for."""

from typing import Literal

from msgspec import Struct

from client.wire import HIGH, LOW, NORMAL
from core.errors import RequestError
from core.setting_types import Count

PRIORITIES = {"high": HIGH, "normal": NORMAL, "low": LOW}


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a tenant may ask for; None is no bound.

    max_concurrency      jobs queued or running at once
    requests_per_minute  requests that make work, those that are refused included; ten seconds' worth may come at once
    max_prompt_tokens    of one request
    top_priority         the most urgent that its jobs may be
    """

    max_concurrency: Count | None = None
    requests_per_minute: Count | None = None
    max_prompt_tokens: Count | None = None
    top_priority: Literal["high", "normal", "low"] = "high"


class Tenant(Struct, frozen=True):
    """One who owns jobs, and shares cached prompts, idempotency keys and limits with nobody."""

    name: str
    limits: Limits = Limits()

    def own(self, text: str) -> str:
        """Return a text that is the same for no other tenant; for a server that asks nobody for a key, the text."""
        # No name has a slash in it.
        return f"{self.name}/{text}" if self.name else text

    def priority(self, wanted: int | None) -> int:
        """Return the priority of a job that asks for one of `client.wire.PRIORITIES`, or for none.

        Raises RequestError if that is above what the tenant may have.
        """
        top = PRIORITIES[self.limits.top_priority]
        if wanted is None:
            return max(NORMAL, top)
        if wanted < top:
            raise RequestError(
                f"requests with this API key have the priority {self.limits.top_priority!r} at most",
                status=403,
                param="priority",
                code="priority_not_allowed",
            )
        return wanted

    def check_prompt(self, num_tokens: int) -> None:
        """Raise RequestError if a prompt is longer than the tenant's may be."""
        most = self.limits.max_prompt_tokens
        if most is not None and num_tokens > most:
            raise RequestError(
                f"the prompt has {num_tokens} tokens; with this API key it may have {most}",
                param="prompt",
                code="prompt_too_long",
            )


# Whoever asks a server that asks nobody for a key.
ANYBODY = Tenant("")
# Whoever may write to the intake stream; Redis decides who that is. No API key can have this name.
INTAKE = Tenant(":intake")
