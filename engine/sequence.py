"""A request's life inside the engine: the one mutable noun."""

from dataclasses import dataclass, field

from core.types import Request


@dataclass(slots=True)
class Sequence:
    """A request that holds a slot, its tokens and its KV blocks. Only the scheduler and the step mutate it.

    tokens        prompt, tokens streamed by earlier attempts, tokens generated here
    num_computed  tokens whose target KV exists; the rest is what the next steps catch up with
    extended      rows before it are in the drafter's KV without gaps; behind num_computed the drafter is stale
    attempt       raised when a round is abandoned before its verdict, so that no draw is ever used twice
    """

    request: Request
    slot: int
    blocks: list[int]
    tokens: list[int] = field(default_factory=list)
    num_computed: int = 0
    extended: int = 0
    attempt: int = 0

    def __post_init__(self) -> None:
        self.tokens = [*self.request.prompt_ids, *self.request.output_ids]

    @property
    def num_uncomputed(self) -> int:
        """Tokens the target has not seen; 1 means that the sequence is decoding."""
        return len(self.tokens) - self.num_computed

    @property
    def num_output(self) -> int:
        """Generated tokens, those of earlier attempts included."""
        return len(self.tokens) - len(self.request.prompt_ids)

    @property
    def num_remaining(self) -> int:
        """Tokens that may still be generated."""
        return self.request.sampling.max_tokens - self.num_output
