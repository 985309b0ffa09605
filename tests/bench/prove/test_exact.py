"""Every admission rule keeps the target's law, exactly; the biases that docs/exactness.md quotes are what they are."""

from fractions import Fraction

import pytest

from bench.prove.enumeration import PaperModel, Parts, RandomModel, Shape, distance, output_law, target_law
from bench.prove.exact import (
    ask_early_stop,
    best_in_hindsight,
    exact_checks,
    tempting_table,
    variation,
    verify_if_second_draft_looked_safe,
)

CHECKS = {check.name: check for check in exact_checks()}
TEMPTED = [seed for seed in range(10) if RandomModel(2, seed).c((0,)) != RandomModel(2, seed).c((1,))]


@pytest.mark.parametrize("name", CHECKS)
def test_the_output_law_is_the_targets(name):
    assert CHECKS[name].variation() == 0


def test_checks_have_names_of_their_own():
    assert len(CHECKS) == len(list(exact_checks())) > 100


@pytest.mark.parametrize("seed", TEMPTED)
def test_hindsight_is_caught_by_the_tempting_table(seed):
    model = RandomModel(2, seed)
    assert variation(model, Shape(1, 2, 2), best_in_hindsight(tempting_table(model))) > Fraction(1, 1000)


def test_hindsight_gives_the_bias_the_paper_computes():
    model, shape = PaperModel(), Shape(1, 2, 1)
    table = tempting_table(model)
    assert output_law(model, shape, best_in_hindsight(table))[((0,),)] == Fraction(85, 100)
    assert output_law(model, shape, ask_early_stop(table))[((0,),)] == Fraction(70, 100)


def test_noise_keyed_by_position_alone_gives_the_bias_the_page_computes():
    model, shape = PaperModel(), Shape(1, 3, 3)
    reused = output_law(model, shape, verify_if_second_draft_looked_safe, Parts(reuse_noise=True))
    chance_of_a = [sum(mass for outs, mass in reused.items() if outs[0][place] == 0) for place in range(3)]
    assert chance_of_a == [Fraction(70, 100), Fraction(85, 100), Fraction(775, 1000)]


def test_the_distance_of_two_laws_is_exact():
    law = target_law(RandomModel(2, 0), Shape(1, 1, 1))
    assert distance(law, {}) == Fraction(1, 2)
    assert distance(law, law) == 0
