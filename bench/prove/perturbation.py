"""What a drafter must not do, tried on it inside the real engine: let a length or evidence depend on a later token.

Every few proposals the drafter is asked again with other noise from some place on. Where its tokens before that place
came out the same, its evidence up to that place, whether a draft exists there, and what admission makes of both must be
the same to the last bit. Drafts must also follow the law that is reported with them, and asking must leave no trace.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from bench.prove.loop import ALPHA, PROMPT, Bed, job_nonce, run
from bench.prove.outcome import Outcome
from core.planning import EarlyStop, FixedLength, Rule, Threshold, TopK
from core.random import derive_coupled_key, derive_nonce
from core.statistics import chi_square_p_value
from core.tensors import Commit, Draft, DraftAsk
from core.types import Request, Sampling
from drafters.base import Drafter
from kernels.admit import admit
from kernels.survival import survival
from models.qwen3 import Qwen3

NUM_REQUESTS = 8
NUM_TOKENS = 12
# Proposals that are tried, and redraws of each for the law.
NUM_TRIED = 4
NUM_REDRAWS = 200
RULES: tuple[Rule, ...] = (
    FixedLength(length=2),
    Threshold(value=0.6),
    Threshold(value=0.4, cumulative=True),
    TopK(budget=1),
    EarlyStop(step_s=(1.0, 1.5, 1.8, 2.3), tops=(2,)),
)


@dataclass
class Findings:
    """What was found so far: complaints, p-values of the law, and how many perturbed rows could be compared."""

    complaints: list[str] = field(default_factory=list)
    p_values: list[float] = field(default_factory=list)
    num_compared: int = 0
    num_tried: int = 0
    is_point_mass: bool = True


class Perturbed:
    """A drafter inside the engine that is asked again and again with other noise; its first answer is what counts."""

    def __init__(self, drafter: Drafter, seed: int) -> None:
        self.spec, self.findings = drafter.spec, Findings()
        self._drafter, self._rng = drafter, torch.Generator().manual_seed(seed)

    def open(self, slot: int, tokens: Sequence[int], num_cached: int) -> None:
        """Pass it on."""
        self._drafter.open(slot, tokens, num_cached)

    def extend(self, commit: Commit) -> None:
        """Pass it on."""
        self._drafter.extend(commit)

    def release(self, slot: int) -> None:
        """Pass it on."""
        self._drafter.release(slot)

    def propose(self, ask: DraftAsk) -> Draft:
        """Return the drafter's own answer, after trying what changes it."""
        draft, found = self._ask(ask), self.findings
        found.is_point_mass &= bool(draft.point_mass.all())
        if found.num_tried < NUM_TRIED:
            found.num_tried += 1
            for place in range(self.spec.max_drafts):
                self._compare(draft, self._ask(self._redrawn(ask, place)), place)
            if ask.coupled is None:
                found.p_values += self._law_p_values(ask, draft)
            if not _equal(draft, self._ask(ask)):
                found.complaints.append("the same question got another answer: proposing left a trace")
        return draft

    def _ask(self, ask: DraftAsk) -> Draft:
        """Return a copy of what the drafter answers, with zeros where there is no draft."""
        draft = self._drafter.propose(ask)
        exists = torch.arange(self.spec.max_drafts) < draft.lengths[:, None]
        q_logits = None if draft.q_logits is None else draft.q_logits.clone()
        return Draft(
            torch.where(exists, draft.tokens, 0),
            draft.lengths.clone(),
            draft.point_mass,
            q_logits,
            torch.where(exists, draft.evidence, 0.0),
        )

    def _redrawn(self, ask: DraftAsk, place: int) -> DraftAsk:
        """Return the ask with fresh noise from `place` on."""
        noise = ask.noise.clone()
        noise[:, place:] = torch.rand(noise[:, place:].shape, generator=self._rng)
        if ask.gumbel is None:
            return replace(ask, noise=noise)
        assert isinstance(ask.gumbel, Tensor)
        gumbel = ask.gumbel.clone()
        uniform = torch.rand(gumbel[:, place:].shape, generator=self._rng).clamp_(min=1e-7)
        gumbel[:, place:] = -(-uniform.log()).log()
        return replace(ask, noise=noise, gumbel=gumbel)

    def _compare(self, draft: Draft, other: Draft, place: int) -> None:
        """Note what a redraw from `place` on changed that it must not change."""
        same = (draft.tokens[:, :place] == other.tokens[:, :place]).all(1)
        self.findings.num_compared += int((same & (draft.tokens[:, place] != other.tokens[:, place])).sum())
        seen, most = slice(0, place + 1), place + 1
        pairs = {
            "evidence": [each.evidence[same, seen] for each in (draft, other)],
            "length": [each.lengths[same].clamp(max=most) for each in (draft, other)],
            "admission": [admitted(each)[:, same].clamp(max=most) for each in (draft, other)],
        }
        for name, (mine, theirs) in pairs.items():
            if not torch.equal(mine, theirs):
                self.findings.complaints.append(f"{name} depends on the draft's own token")

    def _law_p_values(self, ask: DraftAsk, draft: Draft) -> list[float]:
        """Return p-values that tokens are drawn from the q_logits beside them, one per sequence of the first place."""
        if draft.q_logits is None or bool(draft.point_mass.all()):
            return []
        law = draft.q_logits[:, 0].double().softmax(-1).numpy()
        counts = np.zeros_like(law)
        rows = np.arange(len(law))
        for _ in range(NUM_REDRAWS):
            counts[rows, self._ask(self._redrawn(ask, 0)).tokens[:, 0].numpy()] += 1
        return [chi_square_p_value(seen, expected) for seen, expected in zip(counts, law, strict=True)]


def try_drafter(bed: Bed, name: str) -> Outcome:
    """Run a few requests with a drafter that is perturbed on the way, under both verifiers."""
    found = Findings(num_tried=0)
    for is_coupled in (False, True):
        perturbed = Perturbed(bed.drafters[name](bed.target), bed.effort.seed)
        engine = replace(bed, drafters={name: partial(_itself, perturbed)}).engine([name], ["fixed"])
        requests = []
        for i in range(NUM_REQUESTS):
            job = job_nonce(bed.effort.seed, f"perturbed {name} {i}")
            key = derive_coupled_key(job) if is_coupled else None
            sampling = Sampling(max_tokens=NUM_TOKENS)
            requests.append(Request(str(i), PROMPT, sampling, derive_nonce(job, 0, 0), coupled_key=key))
        list(run(engine, requests))
        if engine.stats.fallbacks["drafter"]:
            found.complaints.append("the drafter failed")
        found = merged(found, perturbed.findings)
    return judge(found)


def admitted(draft: Draft) -> Tensor:
    """Return the lengths [rules, B] that each rule admits of every sequence by itself."""
    size = len(draft.lengths)
    seen = survival(draft.evidence, draft.lengths, None)
    return torch.stack([admit(seen, draft.lengths, torch.arange(size), (rule,) * size) for rule in RULES])


def judge(found: Findings) -> Outcome:
    """Return what findings amount to."""
    if found.complaints:
        return Outcome(False, "; ".join(dict.fromkeys(found.complaints)))
    if found.is_point_mass:
        return Outcome(found.num_tried > 0, f"point masses in {found.num_tried} proposals: nothing random to leak")
    if found.p_values and min(found.p_values) * len(found.p_values) <= ALPHA:
        return Outcome(False, f"drafts do not follow their q_logits: p {min(found.p_values):.1e}", 1)
    detail = f"{found.num_compared} perturbed drafts compared, {len(found.p_values)} laws held"
    return Outcome(found.num_compared > 0 and bool(found.p_values), detail, 1)


def merged(one: Findings, other: Findings) -> Findings:
    """Return two findings as one."""
    return Findings(
        one.complaints + other.complaints,
        one.p_values + other.p_values,
        one.num_compared + other.num_compared,
        one.num_tried + other.num_tried,
        one.is_point_mass and other.is_point_mass,
    )


def _itself(drafter: Drafter, target: Qwen3) -> Drafter:  # noqa: ARG001
    return drafter


def _equal(one: Draft, other: Draft) -> bool:
    pairs = [(one.tokens, other.tokens), (one.lengths, other.lengths), (one.evidence, other.evidence)]
    if one.q_logits is not None and other.q_logits is not None:
        pairs.append((one.q_logits, other.q_logits))
    return all(torch.equal(*pair) for pair in pairs)
