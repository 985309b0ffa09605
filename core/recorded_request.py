"""What a line of [recording] says of its request, for whoever asks it again; docs/operating.md has the whole line."""

from typing import Any

from msgspec import Struct

from core.types import Sampling

# 1 had the temperature alone; 2 has all that its request said of sampling.
VERSION = 2


class RecordedRequest(Struct, frozen=True):
    """One line with token ids; other fields are left alone.

    temperature  what lines of version 1 tell of the law; sampling is None in them
    """

    id: str
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    temperature: float = 0.0
    version: int = 1
    sampling: Sampling | None = None

    @property
    def law(self) -> Sampling:
        """How its tokens were drawn, as far as the line tells."""
        return Sampling(temperature=self.temperature) if self.sampling is None else self.sampling


def sampling_fields(sampling: Sampling) -> dict[str, Any]:
    """Return what a line of this version tells of sampling."""
    return {"version": VERSION, "sampling": sampling}
