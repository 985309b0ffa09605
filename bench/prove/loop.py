"""The statistical part: texts of a tiny target through the real engine, held to their law by chi-square.

All texts of a few tokens can be enumerated, so their law is known. Many independent requests run as the sequences of
one wide batch; how many are needed for a demanded power is computed beforehand (core/statistics.py).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from bench.prove.cells import COSTS, DRAFTERS, SAMPLINGS, Cell, every_policy
from bench.prove.text_laws import Text, TextLaws
from bench.prove.tiny import tiny_target
from core.random import derive_coupled_key, derive_nonce
from core.statistics import chi_square_p_value, draws_needed, total_variation
from core.types import Request, Sampling, Speculation
from drafters.base import Drafter
from engine.engine import Engine
from engine.shape import EngineShape
from models.qwen3 import Qwen3
from policies.fixed import Off

VOCABULARY = 5
BLOCK_SIZE = 4
ALPHA = 1e-4
POWER = 0.999
# Repeats itself, so that n-grams are found; all but its last token fill blocks that whoever comes later finds cached.
PROMPT: Text = (1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 1)

# Samplings that share batches; each needs a test's worth of texts of its own.
MIXED_SAMPLINGS = ("cool top_p", "penalties")
# Rounds of a first claim that nobody gets to read.
NUM_LOST_ROUNDS = 2

DeriveNonce = Callable[[bytes, int, int], int]


class Effort(Struct, frozen=True):
    """How hard to look: `length` tokens of a text after its first, `num_draws` of each law, `num_slots` at once.

    variation is the total variation that is found with POWER at ALPHA. seed makes other draws of the same kind.
    """

    length: int
    variation: float
    num_slots: int
    seed: int = 0

    @property
    def max_tokens(self) -> int:
        """Tokens of a request: its first, those looked at, and two so that all of these may come from full drafts."""
        return self.length + 3

    @property
    def num_draws(self) -> int:
        """Draws that the chi-square test needs: its noncentrality is at least 4 n TV^2."""
        return draws_needed(VOCABULARY**self.length - 1, self.variation, ALPHA, POWER)


QUICK = Effort(length=2, variation=0.1, num_slots=512)
FULL = Effort(length=2, variation=0.02, num_slots=512)


class Fit(Struct, frozen=True):
    """How well draws fit their law, and what speculation did meanwhile.

    variation is that of the sample, which is never 0; what counts is p_value.
    """

    p_value: float
    num_draws: int
    variation: float
    drafted: int
    verified: int
    accepted: int

    @property
    def fits(self) -> bool:
        """Tell whether the law stands at ALPHA."""
        return self.p_value > ALPHA


@dataclass(frozen=True)
class Bed:
    """A target, the laws of its texts and the drafters that are tried on it, made by name."""

    target: Qwen3
    laws: TextLaws
    drafters: Mapping[str, Callable[[Qwen3], Drafter]]
    effort: Effort
    untrusted: frozenset[str] = frozenset()

    def engine(self, drafters: Sequence[str], policies: Sequence[str]) -> Engine:
        """Return a fresh engine with those drafters and policies."""
        made = {name: self.drafters[name](self.target) for name in drafters}
        num = self.effort.num_slots
        shape = EngineShape(
            max_num_seqs=num, max_num_batched_tokens=16 * num, kv_cache_tokens=32 * num, block_size=BLOCK_SIZE
        )
        makers = {name: every_policy()[name] for name in policies}
        engine = Engine(self.target, made, makers, shape, (), untrusted=self.untrusted)
        engine.costs.update(dict.fromkeys(made, COSTS))
        return engine


def make_bed(effort: Effort, drafters: Mapping[str, Callable[[Qwen3], Drafter]] = DRAFTERS) -> Bed:
    """Return the tiny target and the laws of its texts."""
    target = tiny_target(VOCABULARY, seed=5, sharpness=0.25)
    return Bed(target, TextLaws(target, PROMPT, effort.length), drafters, effort)


def fit_cell(bed: Bed, cell: Cell, nonce: DeriveNonce = derive_nonce) -> Fit:
    """Return how the texts of one cell fit their law."""
    engine = bed.engine([cell.drafter], [cell.policy])
    sampling = SAMPLINGS[cell.sampling]
    asks = [Ask(sampling, cell.verifier == "coupled")] * bed.effort.num_draws
    [texts] = draw(engine, bed, cell.name, asks, nonce).values()
    return fit(engine, texts, bed.laws, sampling)


def fit_plain(bed: Bed, verifier: str, sampling_name: str) -> Fit:
    """Return how texts without any drafts fit their law."""
    engine, sampling = bed.engine([], [Off.name]), SAMPLINGS[sampling_name]
    asks = [Ask(sampling, verifier == "coupled")] * bed.effort.num_draws
    [texts] = draw(engine, bed, f"plain {verifier} {sampling_name}", asks).values()
    return fit(engine, texts, bed.laws, sampling)


def fit_mixed(bed: Bed) -> list[Fit]:
    """Mix drafters, policies, verifiers and samplings in every batch; return the fit of each sampling's texts."""
    drafters, policies, names = list(bed.drafters), list(every_policy()), MIXED_SAMPLINGS
    engine = bed.engine(drafters, policies)
    asks = []
    for i in range(bed.effort.num_draws * len(names)):
        speculation = Speculation(
            None if i % 11 else 1, drafters[i // 2 % len(drafters)], policies[i // 5 % len(policies)]
        )
        asks.append(Ask(SAMPLINGS[names[i % len(names)]], i // 3 % 2 == 1, speculation))
    drawn = draw(engine, bed, "mixed", asks)
    return [fit(engine, drawn[SAMPLINGS[name]], bed.laws, SAMPLINGS[name]) for name in names]


def fit_reclaimed(bed: Bed, drafter: str, nonce: DeriveNonce = derive_nonce) -> Fit:
    """Claim every job twice in one process, whose policy remembers the first claim; return the fit of the texts.

    The first claim streams one token and drafts two rounds more, but its lease is lost before they are streamed. The
    second goes on from the streamed token with the nonce of its own epoch.
    """
    engine, sampling = bed.engine([drafter], ["eavesdropper"]), Sampling()
    texts: list[Text] = []
    while len(texts) < bed.effort.num_draws:
        size = min(bed.effort.num_slots, bed.effort.num_draws - len(texts))
        jobs = [job_nonce(bed.effort.seed, f"reclaimed {len(texts) + i}") for i in range(size)]
        first = [_claim(bed, i, nonce(job, 0, 0)) for i, job in enumerate(jobs)]
        streamed = _first_tokens(engine, first)
        for _ in range(NUM_LOST_ROUNDS):
            engine.step()
        # Backwards, so that everybody comes back to the slot it had.
        for request in reversed(first):
            engine.abort(request.id)
        second = [_claim(bed, i, nonce(job, 0, 1), streamed[i]) for i, job in enumerate(jobs)]
        texts += [(*streamed[i], *rest) for i, rest in enumerate(run(engine, second))]
    return fit(engine, texts, bed.laws, sampling)


class Ask(Struct, frozen=True):
    """What one request asks for."""

    sampling: Sampling
    is_coupled: bool = False
    speculation: Speculation = Speculation()


def draw(
    engine: Engine, bed: Bed, name: str, asks: Sequence[Ask], nonce: DeriveNonce = derive_nonce
) -> dict[Sampling, list[Text]]:
    """Run one request for each ask, after one that fills the prefix cache; return the texts by sampling."""
    requests = []
    for i, ask in enumerate(asks):
        job = job_nonce(bed.effort.seed, f"{name} {i}")
        request = Request(
            str(i),
            PROMPT,
            replace(ask.sampling, max_tokens=bed.effort.max_tokens),
            nonce(job, 0, 0),
            coupled_key=derive_coupled_key(job) if ask.is_coupled else None,
            speculation=ask.speculation,
        )
        requests.append(request)
    run(engine, [replace(requests[0], id="first")])
    texts: dict[Sampling, list[Text]] = {}
    for ask, text in zip(asks, run(engine, requests), strict=True):
        texts.setdefault(ask.sampling, []).append(text)
    return texts


def run(engine: Engine, requests: Sequence[Request]) -> Iterator[Text]:
    """Run requests to their ends and yield their new tokens, in order."""
    texts: dict[str, list[int]] = {request.id: [] for request in requests}
    for request in requests:
        engine.add(request)
    while engine.has_work:
        for emission in engine.step():
            texts[emission.request_id] += emission.token_ids
    return (tuple(text) for text in texts.values())


def fit(engine: Engine, texts: Sequence[Text], laws: TextLaws, sampling: Sampling) -> Fit:
    """Compare texts, as far as the laws look at them, with the law of one sampling."""
    law = laws.law(sampling)
    counts = np.bincount(laws.codes(texts), minlength=len(law))
    stats = engine.stats
    return Fit(
        chi_square_p_value(counts, law),
        len(texts),
        total_variation(counts / len(texts), law),
        stats.drafted,
        stats.verified,
        stats.accepted,
    )


def job_nonce(seed: int, name: str) -> bytes:
    """Return a job's nonce: what intake would have drawn, but the same in every run with one seed."""
    return f"{seed} {name}".encode()


def _claim(bed: Bed, index: int, nonce: int, streamed: Text = ()) -> Request:
    return Request(str(index), PROMPT, Sampling(max_tokens=bed.effort.max_tokens), nonce, output_ids=streamed)


def _first_tokens(engine: Engine, requests: Sequence[Request]) -> list[Text]:
    """Add requests and step once: every one of them is prefilled and gets a token."""
    for request in requests:
        engine.add(request)
    first = {emission.request_id: emission.token_ids for emission in engine.step()}
    return [first[request.id] for request in requests]
