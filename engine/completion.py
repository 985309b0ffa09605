"""What `Engine.generate` returns for one prompt."""

from dataclasses import dataclass, field

from core.types import Emission, FinishReason


@dataclass(slots=True)
class Completion:
    """A finished generation; `rounds` are its emissions as they came. Filled by `Engine.generate` only."""

    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: FinishReason | None = None
    rounds: list[Emission] = field(default_factory=list)

    def add(self, emission: Emission) -> None:
        """Append one round."""
        self.token_ids.extend(emission.token_ids)
        self.finish_reason = emission.finish_reason
        self.rounds.append(emission)

    @property
    def accepted_length(self) -> float:
        """Tokens per round, the target's own included."""
        return len(self.token_ids) / len(self.rounds) if self.rounds else 0.0
