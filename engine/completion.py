"""What `Engine.generate` returns for one prompt."""

from dataclasses import dataclass, field

from core.types import Emission, FinishReason, TokenLogprobs
from models.answer_text import AnswerText


@dataclass(slots=True)
class Completion:
    """A generation; `rounds` are its emissions as they came. Filled by `Engine.generate` only.

    A stop text ends it at the token that completed the text: what its round drafted behind that is no part of it.
    """

    answer: AnswerText | None = None
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    rounds: list[Emission] = field(default_factory=list)

    def add(self, emission: Emission) -> bool:
        """Append one round; tells whether a stop text has ended the completion before the engine did."""
        kept, self.finish_reason = len(emission.token_ids), emission.finish_reason
        if self.answer:
            pieces = self.answer.add(emission.token_ids)
            kept = len(pieces)
            self.text += "".join(pieces)
            if self.answer.is_stopped:
                self.finish_reason = FinishReason.STOP
            elif emission.finish_reason is not None:
                self.text += self.answer.tail()
        self.token_ids.extend(emission.token_ids[:kept])
        self.logprobs.extend((emission.logprobs or ())[:kept])
        self.rounds.append(emission)
        return self.finish_reason is not None and emission.finish_reason is None

    @property
    def accepted_length(self) -> float:
        """Tokens per round, the target's own included."""
        return len(self.token_ids) / len(self.rounds) if self.rounds else 0.0
