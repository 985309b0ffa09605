"""One step of one group, in numbers that can be read: what the policy saw, expected and chose, and what happened."""

from msgspec import Struct


class StepRecord(Struct, frozen=True):
    """What `specd explain` shows of a step; sums over the group's sequences unless said otherwise.

    Seen:      sequences, of which sampling get a next token and stale have a drafter that is behind; context_len and
               survival, means of the tokens of context and of the drafts that the last blocks known were expected to
               yield (None: none known); extra_rows of the step; kv_free; queue_depth and oldest_wait_s
    Chosen:    rule; planned, drafts asked for; followed and probed (verified whatever the rule) sequences
    Expected:  predicted_step_s and predicted_tokens, None if the policy does not say
    Happened:  drafted, verified and accepted drafts, tokens, rows of the whole step and its seconds
    """

    step: int
    drafter: str
    policy: str
    sequences: int
    sampling: int
    stale: int
    context_len: float
    survival: float | None
    extra_rows: int
    kv_free: float
    queue_depth: int
    oldest_wait_s: float
    rule: str
    planned: int
    followed: int
    probed: int
    predicted_step_s: float | None
    predicted_tokens: float | None
    drafted: int
    verified: int
    accepted: int
    tokens: int
    rows: int
    step_s: float
