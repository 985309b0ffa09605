"""A drafter whose evidence says what it says by a known law, and the rounds it would have had."""

import numpy as np

from core.planning import StepOutcome
from policies.calibration_fit import hazards, survivals

G = 4


class SyntheticDrafter:
    """Drafts are accepted with chance sigmoid(slope * evidence + intercept) by position, plus what evidence hides.

    hidden  how much harder than they look drafts are after a doubtful one, in logits
    """

    def __init__(self, calibration, *, seed=0, hidden=0.0):
        self.calibration, self.hidden = calibration, hidden
        self.random = np.random.default_rng(seed)

    def rounds(self, size):
        """Evidence [N, G], true chances [N, G], how many drafts would be kept [N]."""
        evidence = self.random.normal(1.0, 1.5, (size, G)).astype(np.float32)
        slope, intercept = np.array(self.calibration.slope), np.array(self.calibration.intercept)
        logit = slope * evidence + intercept
        logit[:, 1:] -= self.hidden * (np.minimum.accumulate(evidence, 1)[:, :-1] < 0.5)
        chance = 1 / (1 + np.exp(-logit))
        accepted = (self.random.random((size, G)) < chance).cumprod(1).sum(1).astype(np.int32)
        return evidence, chance.astype(np.float32), accepted

    def step(self, size, believed, *, bar=0.0, probed=0.0, hard=False):
        """The outcome of a step that verified drafts whose believed survival reaches `bar`, and probes in full."""
        evidence, chance, full = self.rounds(size)
        survival = survivals(evidence, believed).astype(np.float32)
        floored = np.where(self.random.random(size) < probed, G, 0).astype(np.int32)
        verified = np.maximum((survival >= bar).sum(1), floored).astype(np.int32)
        accepted = np.minimum(full, verified)
        labels = np.arange(G) < accepted[:, None] if hard else chance
        return StepOutcome(
            step=1,
            slots=np.arange(size, dtype=np.int32),
            drafted=np.full(size, G, dtype=np.int32),
            verified=verified,
            accepted=accepted,
            step_s=0.01,
            rows=size + int(verified.sum()),
            prefill_rows=0,
            catch_up_rows=0,
            evidence=evidence,
            survival=survival,
            soft_labels=np.where(np.arange(G) < verified[:, None], labels, 0).astype(np.float32),
            floored=floored,
        )

    def serve(self, online, num_steps, size=32, **how):
        """Let a calibration learn from steps that were admitted by it."""
        for _ in range(num_steps):
            online.observe(self.step(size, online.calibration, **how))
        return online


def bias(drafter, calibration, size=20_000):
    """By position, predicted less true acceptance over all rounds that get there."""
    evidence, chance, accepted = drafter.rounds(size)
    reached = accepted[:, None] >= np.arange(G)
    off = np.where(reached, hazards(evidence, calibration) - chance, 0.0)
    return off.sum(0) / reached.sum(0)
