"""A request's life inside the engine: the one mutable noun."""

import time
from dataclasses import dataclass, field

from core.types import Request
from models.constraint import Constraint

# Names of the drafter and of the policy that a sequence is planned under.
GroupKey = tuple[str, str]


@dataclass(slots=True, eq=False)
class Sequence:
    """A request, its tokens, and while it runs its slot and KV blocks. Only the scheduler and the step mutate it.

    group         the drafter and the policy it is planned under
    max_drafts    most drafts per step, by its drafter and by what the request says
    scratch_rows  rows past the anchor that its drafter may write: its full width, however few drafts are asked for
    slot          its place in the engine; -1 while it waits
    tokens        prompt, tokens streamed by earlier attempts, tokens generated here
    chain         hashes of its full blocks, as far as anyone asked (engine/prefix.py)
    num_published blocks at its start that the prefix cache knows of
    num_cached    prompt tokens that came from the prefix cache when it was first admitted; None before that
    num_computed  tokens whose target KV exists; the rest is what the next steps catch up with
    extended      rows before it have reached the drafter without gaps; behind num_computed the drafter is stale
    queued_s      monotonic seconds at which it arrived
    constraint    its place in its grammar, from when that is compiled; None without a grammar
    fault         why its answer cannot go on; None while it can
    longest       tokens at which it ends, prompt included
    attempt       raised when a round is abandoned before its verdict, so that no draw is ever used twice
    """

    request: Request
    group: GroupKey = ("none", "off")
    max_drafts: int = 0
    scratch_rows: int = 0
    slot: int = -1
    blocks: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    chain: list[bytes] = field(default_factory=list)
    num_published: int = 0
    num_cached: int | None = None
    num_computed: int = 0
    extended: int = 0
    queued_s: float = field(default_factory=time.monotonic)
    attempt: int = 0
    constraint: Constraint | None = None
    fault: str | None = None
    longest: int = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = [*self.request.prompt_ids, *self.request.output_ids]
        self.longest = len(self.request.prompt_ids) + self.request.sampling.max_tokens

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
        return self.longest - len(self.tokens)

    @property
    def num_stale(self) -> int:
        """Computed rows that its drafter has not seen."""
        return self.num_computed - self.extended
