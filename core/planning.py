"""What a policy sees, and what it may say: nouns of a step's plan, on the host.

Shapes use B sequences in the step, G most drafts, N rows, V vocabulary. Inside kernels the paper's symbols map
one way only: p is the target's law, q the draft's, c a confidence, a a survival (cumulative product of c).
"""

from typing import Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from core.cost import CostTable

I32 = NDArray[np.int32]
F32 = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
# An array is read as it is; a tuple is for tables of a few entries.
Seconds = NDArray[np.float64] | tuple[float, ...]


class FixedLength(Struct, frozen=True, tag="fixed_length"):
    """Verify the first `length` drafts of every sequence."""

    length: int


class Threshold(Struct, frozen=True, tag="threshold"):
    """Verify drafts up to the first whose value falls below `value`.

    The value compared is the conditional acceptance of that draft, or the survival of the whole prefix if
    `cumulative`.
    """

    value: float
    cumulative: bool = False


class TopK(Struct, frozen=True, tag="top_k"):
    """Verify the `budget` drafts of greatest survival in the whole group; ties go by position, then row."""

    budget: int


class EarlyStop(Struct, frozen=True, tag="early_stop"):
    """Admit in order of survival until expected tokens per second stop rising (DSpark, Algorithm 1).

    step_s[n] is the step's seconds with n drafts admitted in this group, n = 0..len - 1; no more than len - 1
    drafts are ever admitted. tops, ascending, are numbers of drafts up to which rows cost nothing more (the tops of
    padded batch shapes): where admission stops at n, it goes on, in the same order, to the first of tops that is n or
    more.
    """

    step_s: Seconds
    tops: tuple[int, ...] = ()


Rule = FixedLength | Threshold | TopK | EarlyStop


class Calibration(Struct, frozen=True):
    """Per-position map from evidence to conditional acceptance: sigmoid(slope * evidence + intercept), G entries."""

    slope: tuple[float, ...]
    intercept: tuple[float, ...]


class StepView(Struct, frozen=True):
    """What a policy sees: only facts fixed before this step's drafts are sampled (docs/exactness.md).

    All arrays have one entry per sequence of the policy's group, in batch order.
    gamma_max        most drafts a sequence may have now; 0 while it is prefilling or its drafter state is stale
    samples          the sequence gets a next token in this step, drafts or not; false inside a long prefill
    context_len      tokens whose target KV exists
    stale_rows       rows the drafter has not seen: drafting again first costs them once more (`Plan.follow`)
    survival_lag     [B, G] survival recorded one or more steps ago, nan where there is none yet
    tokens_left      tokens that may still be generated
    priority         of the request; greater is more urgent, 1 is usual
    deadline_in_s    seconds until the request's deadline, negative past it; inf if it has none
    extra_rows       rows of this step outside the group's own anchors and drafts: prefill, other groups' anchors and
                     what groups before this one have planned; extra_sequences are the sequences of other groups
    queue_depth      requests that wait for a slot, in the engine or before it (`Backlog`); oldest_wait_s for how long
                     the oldest of them has
    cost             what steps cost on this machine with this group's drafter; None where nobody measured
    """

    step: int
    slots: I32
    gamma_max: I32
    samples: BoolArray
    context_len: I32
    extra_rows: int
    extra_sequences: int
    stale_rows: I32
    survival_lag: F32
    tokens_left: I32
    priority: I32
    deadline_in_s: F32
    kv_free: float
    queue_depth: int
    oldest_wait_s: float = 0.0
    cost: CostTable | None = None


class Plan(Struct, frozen=True):
    """What a policy may say: how much each sequence drafts (0 = not at all), and one admission rule for the group.

    follow marks sequences whose drafter state is kept up with the target; one that is not followed becomes stale. To
    follow a stale one is to ask for catch-up: its rows run through the target once more in this step (in chunks, if
    they are many), and it can draft in the step after the last of them.
    calibration      None leaves the group's own, learnt from its finished steps
    floor            i32 [B]; so many first drafts are verified before all others, whatever the rule says: a probe,
                     or what a deadline needs. They count in the budget of TopK
    weight           f32 [B] above 0; multiplies survivals where TopK puts drafts in order
    predicted_step_s, predicted_tokens   what the policy expects of the step, if it does; only exported
    stands           steps that a plan may serve for, this one included, which neither drafts nor follows: while the
                     same sequences decode nobody is asked meanwhile, and few of these steps are shown to `observe`
    """

    draft_len: I32
    rule: Rule
    follow: BoolArray
    calibration: Calibration | None = None
    floor: I32 | None = None
    weight: F32 | None = None
    predicted_step_s: float | None = None
    predicted_tokens: float | None = None
    stands: int = 1


class StepOutcome(Struct, frozen=True):
    """What a finished step taught, for policies and metrics; arrays have one entry per judged sequence of the group.

    rows are the target rows of the whole step, prefill_rows and catch_up_rows of them no verification.
    evidence      f32 [b, G]; the drafts' logits of conditional acceptance before calibration
    survival      f32 [b, G]; what admission saw, 0 past the drafts
    soft_labels   f32 [b, G]; the chance of acceptance before the token was drawn, of verified drafts; hard outcomes
                  under `coupled`. Past a rejection it is that of a text nobody will see
    floored       i32 [b]; drafts that were verified whatever the rule said
    """

    step: int
    slots: I32
    drafted: I32
    verified: I32
    accepted: I32
    step_s: float
    rows: int
    prefill_rows: int
    catch_up_rows: int
    evidence: F32
    survival: F32
    soft_labels: F32
    floored: I32


class Policy(Protocol):
    """Decides, before drafts exist, how much to draft and by which rule drafts go to verification.

    `plan` is pure in its inputs and the policy's own state; `observe` learns from finished steps only. A policy
    never sees live survival, so it cannot bias the output whatever it does.
    """

    name: str

    def plan(self, view: StepView) -> Plan:
        """Return the plan of this step for the sequences in `view`."""
        ...

    def observe(self, outcome: StepOutcome) -> None:
        """Learn from a finished step."""
        ...
