"""What the loop is proved for: drafters, policies, verifiers and samplings, and which of their combinations are run."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, cycle, product
from typing import NamedTuple

from bench.prove.listeners import Eavesdropper, Favouring, RisingRate
from bench.prove.tiny import tiny_dspark, tiny_eagle3
from bench.prove.uneven import Uneven
from core.cost import CostTable
from core.planning import Policy
from core.types import Sampling
from drafters.base import Drafter
from drafters.ngram import NGram
from models.qwen3 import Qwen3
from policies.confidence import Confidence
from policies.fixed import Fixed, Off
from policies.load_adaptive import LoadAdaptive

NUM_DRAFTS = 3
MakeDrafter = Callable[[Qwen3], Drafter]

DRAFTERS: dict[str, MakeDrafter] = {
    "dspark": lambda target: tiny_dspark(target, block_size=NUM_DRAFTS),
    "eagle3": lambda target: tiny_eagle3(target, num_drafts=NUM_DRAFTS, num_never=1),
    "ngram": lambda _: NGram(max_drafts=NUM_DRAFTS),
    "uneven": lambda target: Uneven(target.config.vocab_size, NUM_DRAFTS),
}
POLICIES: dict[str, Callable[[], Policy]] = {
    "fixed": lambda: Fixed(NUM_DRAFTS),
    "confidence": lambda: Confidence(0.4),
    "early_stop": RisingRate,
    "load_adaptive": lambda: LoadAdaptive(probe_after=2),
}
# What policies may say beyond a rule, used against the law.
LISTENERS: dict[str, Callable[[], Policy]] = {
    "favouring": Favouring,
    "eavesdropper": Eavesdropper,
}
VERIFIERS = ("rejection", "coupled")
SAMPLINGS = {
    "plain": Sampling(),
    "cool top_p": Sampling(temperature=0.7, top_p=0.9),
    "top_k": Sampling(temperature=1.3, top_k=3),
    "min_p": Sampling(min_p=0.3),
    "penalties": Sampling(repetition_penalty=1.3, frequency_penalty=0.7, presence_penalty=-0.5),
    "logit_bias": Sampling(logit_bias=((1, 1.0), (3, -1.0))),
}
# What load_adaptive is told of the machine: a draft row costs so much that only some drafts pay.
COSTS = CostTable(
    sequences=(1, 128),
    lengths=(0, NUM_DRAFTS),
    contexts=(16,),
    plain_s=((0.001, 0.010),),
    verify_s=(((0.001, 0.0013), (0.010, 0.020)),),
    draft_s=((0.0001, 0.001),),
    prefill_row_s=0.0001,
    catch_up_row_s=0.0001,
)


class Cell(NamedTuple):
    """One combination, by names."""

    drafter: str
    policy: str
    verifier: str
    sampling: str

    @property
    def name(self) -> str:
        """The combination in words."""
        return " x ".join(self)


def all_cells(drafters: Sequence[str]) -> list[Cell]:
    """Return every combination."""
    return [Cell(*names) for names in product(drafters, {**POLICIES, **LISTENERS}, VERIFIERS, SAMPLINGS)]


def pairwise_cells(drafters: Sequence[str]) -> list[Cell]:
    """Return few cells in which every pair of values of two factors occurs, chosen greedily, always the same ones.

    Among equals the cell goes first whose values have been used least. Every drafter has a cell with a
    listener; listeners, verifiers and samplings take turns.
    """
    cells = [cell for cell in all_cells(drafters) if cell.policy in POLICIES]
    missing = {pair for cell in cells for pair in _pairs(cell)}
    used: Counter[str] = Counter()
    chosen: list[Cell] = []

    def worth(cell: Cell) -> tuple[int, int]:
        return sum(pair in missing for pair in _pairs(cell)), -sum(used[value] for value in cell)

    while missing:
        best = max(cells, key=worth)
        chosen.append(best)
        used.update(best)
        missing.difference_update(_pairs(best))
    turns = zip(drafters, cycle(LISTENERS), cycle(VERIFIERS), cycle(SAMPLINGS), strict=False)
    return chosen + [Cell(*names) for names in turns]


def every_policy() -> dict[str, Callable[[], Policy]]:
    """Return all policies, with the one that never drafts."""
    return {**POLICIES, **LISTENERS, Off.name: Off}


def _pairs(cell: Cell) -> Iterator[tuple[tuple[int, str], tuple[int, str]]]:
    return combinations(enumerate(cell), 2)
