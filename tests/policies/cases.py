"""Synthetic machines and loads for policies: prices that are easy to reason about, and a loop that plays rounds."""

import numpy as np

from core.cost import CostTable
from core.planning import StepOutcome, StepView
from tests.policies.admission import admitted

G = 7
GRID = (1, 2, 4, 8, 16, 32, 64)


def linear_table(base=4.0, sequence=0.1, row=0.1, follow=0.05, draft=(0.5, 0.05), catch_up=None):
    """Milliseconds: a step, one more sequence, one more row, following one sequence, drafting at all and for one."""
    lengths = (0, 1, 3, G)

    def plain(n):
        return (base + (sequence + row) * n) / 1e3

    verify = tuple(tuple(plain(n) + (follow * n + row * n * k) / 1e3 for k in lengths) for n in GRID)
    drafts = tuple((draft[0] + draft[1] * n) / 1e3 for n in GRID)
    row_s = row / 1e3
    return CostTable(
        sequences=GRID,
        lengths=lengths,
        contexts=(32,),
        plain_s=(tuple(plain(n) for n in GRID),),
        verify_s=(verify,),
        draft_s=(drafts,),
        prefill_row_s=row_s,
        catch_up_row_s=row_s if catch_up is None else catch_up / 1e3,
    )


def view(size=4, *, step=1, cost=None, **changes):
    facts = {
        "step": step,
        "slots": np.arange(size, dtype=np.int32),
        "gamma_max": np.full(size, G, dtype=np.int32),
        "samples": np.ones(size, dtype=np.bool_),
        "context_len": np.full(size, 10 + 2 * step, dtype=np.int32),
        "extra_rows": 0,
        "extra_sequences": 0,
        "stale_rows": np.zeros(size, dtype=np.int32),
        "survival_lag": np.full((size, G), np.nan, dtype=np.float32),
        "tokens_left": np.full(size, 1000, dtype=np.int32),
        "priority": np.ones(size, dtype=np.int32),
        "deadline_in_s": np.full(size, np.inf, dtype=np.float32),
        "kv_free": 0.5,
        "queue_depth": 0,
        "cost": cost,
    }
    return StepView(**(facts | changes))


class Rounds:
    """Plays a policy against sequences whose drafts survive with fixed chances, [B, G]; what happens is expected."""

    def __init__(self, policy, cost, survival, **facts):
        self.policy, self.cost = policy, cost
        self.survival = np.asarray(survival, dtype=np.float32)
        self.size, self.step, self.seconds, self.tokens = len(self.survival), 0, 0.0, 0.0
        self.stale = np.zeros(self.size, dtype=np.int32)
        self.context = np.full(self.size, 20, dtype=np.int32)
        self.lag = np.full(self.survival.shape, np.nan, dtype=np.float32)
        self.random, self.facts, self.accepted = np.random.default_rng(0), facts, np.zeros(self.size, dtype=np.int64)

    def seen(self):
        """What the policy is shown of the next round."""
        return view(
            self.size,
            step=self.step,
            cost=self.cost,
            gamma_max=np.where(self.stale > 0, 0, G).astype(np.int32),
            stale_rows=self.stale.copy(),
            context_len=self.context.copy(),
            survival_lag=self.lag.copy(),
            **self.facts,
        )

    def next(self):
        """Play a round; returns the plan."""
        seen = self.seen()
        plan = self.policy.plan(seen)
        drafts = plan.draft_len > 0
        verified = admitted(plan, plan.draft_len, self.survival)
        budget = int(verified.sum())
        drawn = (self.random.random(self.size)[:, None] < self.survival).sum(1)
        accepted = np.minimum(drawn, verified).astype(np.int32)
        caught_up = int(self.stale[plan.follow].sum())
        seconds = self.cost.step_s(self.size, int(drafts.sum()), budget, 32, catch_up_rows=caught_up)
        self.lag[drafts] = self.survival[drafts]
        self.stale = np.where(plan.follow, 0, self.stale + accepted + 1).astype(np.int32)
        self.context += accepted + 1
        self.accepted += accepted
        self.step += 1
        self.seconds += float(seconds)
        self.tokens += self.size + int(accepted.sum())
        outcome = StepOutcome(
            step=self.step,
            slots=seen.slots,
            drafted=plan.draft_len,
            verified=verified,
            accepted=accepted,
            step_s=float(seconds),
            rows=self.size + budget + caught_up,
            prefill_rows=0,
            catch_up_rows=caught_up,
            evidence=np.zeros_like(self.survival),
            survival=np.where(drafts[:, None], self.survival, 0.0),
            soft_labels=np.zeros_like(self.survival),
            floored=np.zeros(self.size, dtype=np.int32),
        )
        self.policy.observe(outcome)
        return plan

    def play(self, num_steps):
        """Play rounds; returns their plans."""
        return [self.next() for _ in range(num_steps)]


def chances(*conditional):
    """Survivals [B, G] of sequences whose drafts are each accepted with one chance."""
    return np.array(conditional)[:, None] ** np.arange(1, G + 1)
