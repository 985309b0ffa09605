"""What many settings have in common: bounded numbers and names."""

from typing import Annotated

from msgspec import Meta

Seconds = Annotated[float, Meta(gt=0.0, le=604800.0)]
Count = Annotated[int, Meta(ge=1, le=1 << 30)]
Name = Annotated[str, Meta(min_length=1)]
