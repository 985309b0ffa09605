"""A toy loop that plays recorded acceptance against a modelled clock: policies at GPU-like loads, on a CPU.

The recordings are of a drafter of 7 that drafted at every position; a step that verifies l drafts at anchor t yields
min(accepted[t], l) + 1 tokens. The clock is a modelled GPU's, see bench/replay/data/NOTES.md.
"""

import numpy as np

from bench.replay.clock import ModelledMachine
from bench.replay.recording import read_recording
from core.planning import StepOutcome, StepView
from tests.policies.admission import admitted

CONTEXT = 1024
G = 7
Clock = ModelledMachine


class Recording:
    """Requests with what their drafts survive: survival [N, T, G] and accepted [N, T]."""

    def __init__(self, survival, accepted):
        self.survival, self.accepted = survival, accepted


def recorded():
    """The recorded requests, all three domains mixed."""
    shown = read_recording()
    confidence = 1 / (1 + np.exp(-shown.evidence))
    return Recording(np.cumprod(confidence, axis=2), shown.accepted.astype(np.int32))


class Loop:
    """`num_sequences` requests at a time, one replaced by the next when its recording ends."""

    def __init__(self, recording, clock, policy, num_sequences, table):
        self.recording, self.clock, self.policy, self.table = recording, clock, policy, table
        self.size, self.tokens, self.seconds, self.step_index, self.next = num_sequences, 0, 0.0, 0, num_sequences
        self.request = np.arange(num_sequences) % len(recording.accepted)
        self.verified = 0
        # Rows of the newest step beside those of decoding and drafts.
        self.caught_up = 0
        # Out of step with each other, as arrivals are.
        self.anchor = (np.arange(num_sequences) * 37) % 200
        self.stale = np.zeros(num_sequences, dtype=np.int32)
        self.lag = np.full((num_sequences, G), np.nan, dtype=np.float32)

    def view(self):
        size = self.size
        left = self.recording.accepted.shape[1] - 1 - self.anchor
        return StepView(
            step=self.step_index,
            slots=np.arange(size, dtype=np.int32),
            gamma_max=np.where(self.stale > 0, 0, np.minimum(G, left)).astype(np.int32),
            samples=np.ones(size, dtype=np.bool_),
            context_len=(CONTEXT - 128 + self.anchor).astype(np.int32),
            extra_rows=0,
            extra_sequences=0,
            stale_rows=self.stale.copy(),
            survival_lag=self.lag.copy(),
            tokens_left=left.astype(np.int32),
            priority=np.ones(size, dtype=np.int32),
            deadline_in_s=np.full(size, np.inf, dtype=np.float32),
            kv_free=0.5,
            queue_depth=0,
            cost=self.table,
        )

    def step(self):
        view = self.view()
        plan = self.policy.plan(view)
        drafted = np.minimum(plan.draft_len, view.gamma_max)
        survival = self.recording.survival[self.request, self.anchor]
        live = np.where(np.arange(G) < drafted[:, None], survival, -1.0)
        verified = admitted(plan, drafted, survival)
        self.verified += int(verified.sum())
        accepted = np.minimum(self.recording.accepted[self.request, self.anchor], verified)
        self.caught_up = caught_up = int(self.stale[plan.follow].sum())
        seconds = self.clock.verify_s(self.size, self.size + int(verified.sum()) + caught_up)
        seconds += self.clock.draft_s(int((drafted > 0).sum()))
        self.lag[drafted > 0] = np.where(live >= 0, live, np.nan)[drafted > 0]
        self.stale = np.where(plan.follow, 0, self.stale + accepted + 1).astype(np.int32)
        self.tokens += int(accepted.sum()) + self.size
        self.seconds += seconds
        self.step_index += 1
        self.anchor += accepted + 1
        self.replace_finished()
        self.policy.observe(
            StepOutcome(
                step=self.step_index,
                slots=view.slots,
                drafted=drafted.astype(np.int32),
                verified=verified.astype(np.int32),
                accepted=accepted.astype(np.int32),
                step_s=seconds,
                rows=self.size + int(verified.sum()) + caught_up,
                prefill_rows=0,
                catch_up_rows=caught_up,
                evidence=np.zeros_like(live, dtype=np.float32),
                survival=np.maximum(live, 0.0).astype(np.float32),
                soft_labels=np.zeros_like(live, dtype=np.float32),
                floored=np.zeros(self.size, dtype=np.int32),
            )
        )
        return plan

    def replace_finished(self):
        for index in np.flatnonzero(self.anchor >= self.recording.accepted.shape[1] - 1):
            self.request[index] = self.next % len(self.recording.accepted)
            self.next, self.anchor[index], self.stale[index] = self.next + 1, 0, 0
            self.lag[index] = np.nan

    def rate(self, num_tokens):
        """Tokens per second over `num_tokens` after a warm-up of a tenth of them."""
        while self.tokens < num_tokens // 10:
            self.step()
        tokens, seconds = self.tokens, self.seconds
        while self.tokens < num_tokens:
            self.step()
        return (self.tokens - tokens) / (self.seconds - seconds)
