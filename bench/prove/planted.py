"""Mistakes worth making, each swapped in for one honest function, and the check that must catch it.

A certificate that nothing can fail proves nothing. Every entry runs one check twice, over the same path: with the
honest part it must pass, with the planted one it must fail.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from types import ModuleType
from typing import Any, NamedTuple

from bench.prove import mistakes
from bench.prove.cells import Cell
from bench.prove.enumeration import Admit, PaperModel, Parts, RandomModel, Shape, Survivals, ask_admit
from bench.prove.exact import ask_early_stop, tempting_table, variation, verify_if_second_draft_looked_safe
from bench.prove.loop import Bed, DeriveNonce, fit_cell, fit_reclaimed
from bench.prove.outcome import Outcome, of_fits, of_measured, of_variation
from bench.prove.perturbation import try_drafter
from bench.prove.round_law import (
    TOLERANCE,
    Body,
    DrawSlot,
    draw_as_drafters_do,
    lengths_by_first_token,
    random_tables,
    round_variation,
)
from bench.prove.uneven import Uneven
from core.planning import Threshold, TopK
from core.random import derive_nonce
from engine import accept as accept_module
from engine import draws_ahead as draws_module
from engine import noise as noise_module
from kernels.admit import admit
from kernels.reject import reject

EXACT, ROUND, LOOP, DRAFTER = "enumeration", "law of a round", "real loop", "perturbation"


class PlantedBug(NamedTuple):
    """A mistake by name, the path on which it is looked for, and that path with the honest and the wrong part."""

    name: str
    path: str
    honest: Callable[[], Outcome]
    wrong: Callable[[], Outcome]


def planted_bugs(bed: Bed) -> Iterator[PlantedBug]:
    """Yield all of them; bed is what those in the real loop run on."""
    yield from _of_admission()
    yield from _of_verification()
    yield from _of_randomness(bed)
    yield from _of_drafters(bed)


def _of_admission() -> Iterator[PlantedBug]:
    yield _exact("anticipating search", _early_stop_outcome, admit, mistakes.search_in_hindsight)
    yield _exact("patience with rollback", _early_stop_outcome, admit, mistakes.stop_late_and_go_back)
    honest = Parts().survivals
    yield _exact("dropping by q of the sampled token", _threshold_outcome, honest, mistakes.survivals_of_the_token)
    yield _exact("unstable ties", _tied_outcome, admit, mistakes.break_ties_by_the_whole_row)


def _of_verification() -> Iterator[PlantedBug]:
    honest = cache(partial(_body_outcome, reject))
    for name, wrong in (
        ("wrong residual", mistakes.draw_from_the_target),
        ("bonus from the residual", mistakes.draw_the_bonus_from_the_residual),
        ("off-by-one", mistakes.draw_the_bonus_one_row_early),
        ("accept draw used again", mistakes.use_the_accept_draw_again),
    ):
        yield PlantedBug(name, ROUND, honest, partial(_body_outcome, wrong))
    wrong_draw = partial(_draw_outcome, mistakes.draw_in_bfloat16)
    yield PlantedBug("bf16 q", ROUND, partial(_draw_outcome, draw_as_drafters_do), wrong_draw)


def _of_randomness(bed: Bed) -> Iterator[PlantedBug]:
    listening = Cell("uneven", "eavesdropper", "rejection", "plain")
    fixed, coupled = (Cell("uneven", "fixed", verifier, "plain") for verifier in ("rejection", "coupled"))
    paths = _LoopPaths(bed)
    yield PlantedBug("position-keyed noise", EXACT, partial(_reuse_outcome, False), partial(_reuse_outcome, True))
    yield PlantedBug("nonce shared in a batch", EXACT, partial(_share_outcome, False), partial(_share_outcome, True))
    for name, cell, place in (
        ("wrong residual", fixed, (accept_module, "reject", mistakes.draw_from_the_target)),
        ("position-keyed noise", listening, (draws_module, "round_uniforms", mistakes.key_by_position)),
        ("coupled noise by row", coupled, (noise_module, "gumbel_noise", mistakes.key_by_row)),
    ):
        yield PlantedBug(name, LOOP, partial(paths.cell, cell), partial(paths.swapped_cell, cell, place))
    for name, path, subject, wrong in (
        ("nonce shared in a batch", paths.cell, listening, mistakes.share_nonces),
        ("nonce without epoch", paths.reclaimed, "uneven", mistakes.forget_the_epoch),
    ):
        yield PlantedBug(name, LOOP, partial(path, subject), partial(path, subject, wrong))


def _of_drafters(bed: Bed) -> Iterator[PlantedBug]:
    honest = cache(partial(_drafter_outcome, bed, Uneven))
    for name, wrong in (
        ("evidence reads its own token", mistakes.PeekingEvidence),
        ("length reads the token", mistakes.PeekingLength),
        ("another law than reported", mistakes.AnotherLaw),
    ):
        yield PlantedBug(name, DRAFTER, honest, partial(_drafter_outcome, bed, wrong))
    # Peeking and lying are harmless while the drafter's word is not taken for anything.
    stranger = _with_drafter(bed, mistakes.Liar)
    unproven = _LoopPaths(replace(stranger, untrusted=frozenset({"uneven"})))
    cell = Cell("uneven", "confidence", "rejection", "plain")
    name = "an unproven drafter trusted"
    yield PlantedBug(name, LOOP, partial(unproven.cell, cell), partial(_LoopPaths(stranger).cell, cell))


# --- Paths -------------------------------------------------------------------------------------------------------


def _exact(name: str, path: Callable[[Any], Outcome], honest: Any, wrong: Any) -> PlantedBug:
    return PlantedBug(name, EXACT, partial(path, honest), partial(path, wrong))


def _early_stop_outcome(admission: Admit) -> Outcome:
    choose = ask_early_stop(tempting_table(PaperModel()), admission)
    return of_variation(variation(PaperModel(), Shape(1, 2, 2), choose))


def _threshold_outcome(survivals: Survivals) -> Outcome:
    choose = ask_admit(Threshold(value=0.5))
    return of_variation(variation(RandomModel(2, 1), Shape(1, 2, 2), choose, Parts(survivals=survivals)))


def _tied_outcome(admission: Admit) -> Outcome:
    choose = ask_admit(TopK(budget=1), admission=admission)
    return of_variation(variation(PaperModel(), Shape(2, 2, 2), choose))


def _reuse_outcome(is_reused: bool) -> Outcome:
    parts = Parts(reuse_noise=is_reused)
    return of_variation(variation(PaperModel(), Shape(1, 3, 3), verify_if_second_draft_looked_safe, parts))


def _share_outcome(is_shared: bool) -> Outcome:
    choose = ask_admit(TopK(budget=2), weights=(1.0, 0.6))
    return of_variation(variation(PaperModel(), Shape(2, 2, 2), choose, Parts(share_noise=is_shared)))


def _body_outcome(body: Body) -> Outcome:
    return of_measured(round_variation(random_tables(), lengths_by_first_token, body), TOLERANCE)


def _draw_outcome(draw_slot: DrawSlot) -> Outcome:
    return of_measured(round_variation(random_tables(), draw_slot=draw_slot), TOLERANCE)


class _LoopPaths:
    """Paths through the real loop; what the honest code does on one of them is found out once."""

    def __init__(self, bed: Bed) -> None:
        self._bed = bed
        self.cell, self.reclaimed = cache(self._cell), cache(self._reclaimed)

    def swapped_cell(self, cell: Cell, place: tuple[ModuleType, str, Any]) -> Outcome:
        with swapped(*place):
            return self._cell(cell)

    def _cell(self, cell: Cell, nonce: DeriveNonce = derive_nonce) -> Outcome:
        return of_fits([fit_cell(self._bed, cell, nonce)])

    def _reclaimed(self, drafter: str, nonce: DeriveNonce = derive_nonce) -> Outcome:
        return of_fits([fit_reclaimed(self._bed, drafter, nonce)])


def _drafter_outcome(bed: Bed, kind: type[Uneven]) -> Outcome:
    return try_drafter(_with_drafter(bed, kind), "uneven")


def _with_drafter(bed: Bed, kind: type[Uneven]) -> Bed:
    return replace(bed, drafters={"uneven": lambda target: kind(target.config.vocab_size)})


@contextmanager
def swapped(module: ModuleType, name: str, wrong: Any) -> Iterator[None]:
    """Put `wrong` in the place of a module's function while the context lasts."""
    honest = getattr(module, name)
    setattr(module, name, wrong)
    try:
        yield
    finally:
        setattr(module, name, honest)
