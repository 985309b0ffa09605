"""The search against all plans there are, on machines drawn at random."""

from itertools import combinations

import numpy as np
import pytest

from core.cost import CostTable
from policies import search
from policies.prices import Step
from policies.search import Ranking, choose_drafting
from tests.policies.cases import chances, linear_table

GRID, LENGTHS = (1, 2, 3, 5), (0, 1, 2, 3)


def random_table(random):
    """Prices that rise with everything, by steps of wildly different heights."""

    def rising(*shape, scale=1.0):
        return scale * random.exponential(size=shape) ** random.uniform(0.5, 3)

    plain = 1.0 + rising(len(GRID), scale=random.choice([0.02, 0.5])).cumsum()
    rows = rising(len(GRID), len(LENGTHS), scale=random.choice([0.01, 0.1, 0.5])).cumsum(1).cumsum(0)
    rows -= rows[:, :1]
    follow = rising(len(GRID), scale=0.05).cumsum()
    draft = rising(len(GRID), scale=random.choice([0.02, 0.2])).cumsum()
    verify = plain[:, None] + follow[:, None] + rows
    as_rows = [tuple(map(tuple, (table,))) for table in (plain.tolist(), draft.tolist())]
    verify_s = (tuple(map(tuple, verify.tolist())),)
    return CostTable(GRID, LENGTHS, (32,), as_rows[0], verify_s, as_rows[1], 0.01, 0.01)


def best_rate(table, survival):
    """Tokens per second of the best of all sets of drafting sequences and numbers of drafts."""
    size = len(survival)
    best = 0.0
    for count in range(size + 1):
        for chosen in combinations(range(size), count):
            values = np.sort(survival[list(chosen)], axis=None)[::-1]
            tokens = size + np.concatenate(([0.0], values.cumsum()))
            seconds = table.step_s(size, count, np.arange(len(tokens)), 32)
            best = max(best, float((tokens / seconds)[: len(tokens) if count else 1].max()))
    return best


def found_rate(table, survival):
    size, prices = len(survival), table.at(32)
    base_s = prices.plain_s(size)
    chosen, _ = choose_drafting(prices, size, base_s, survival, np.zeros(size))
    if not chosen.any():
        return size / base_s
    budget, seconds, _ = Ranking(survival[chosen]).choose(Step(prices, size, base_s))
    values = np.sort(survival[chosen], axis=None)[::-1]
    return (size + values[:budget].sum()) / seconds


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_the_plan_found_is_within_two_percent_of_the_best_of_all_plans(size, monkeypatch):
    monkeypatch.setattr(search, "GENEROSITY", 0.0)
    for seed in range(60):
        random = np.random.default_rng(1000 * size + seed)
        table = random_table(random)
        survival = np.cumprod(random.beta(random.uniform(0.5, 6), 1.0, size=(size, 3)), axis=1)
        assert found_rate(table, survival) >= 0.98 * best_rate(table, survival), seed


def budget_of(prices, survival):
    return Ranking(survival).choose(Step(prices, len(survival), prices.plain_s(len(survival)))).drafts


@pytest.mark.parametrize("size", [1, 3, 5])
def test_generosity_costs_little_and_never_drafts_less(size, monkeypatch):
    shares = []
    for seed in range(60):
        random = np.random.default_rng(1000 * size + seed)
        table, survival = random_table(random), np.cumprod(random.beta(3.0, 1.0, size=(size, 3)), axis=1)
        shares.append(found_rate(table, survival) / best_rate(table, survival))
        at = table.at(32)
        generous = budget_of(at, survival)
        with monkeypatch.context() as context:
            context.setattr(search, "GENEROSITY", 0.0)
            assert generous >= budget_of(at, survival)
    assert min(shares) > 0.92
    assert np.mean(shares) > 0.99


def budget_at(survival, **prices):
    return budget_of(linear_table(**prices).at(32), survival)


@pytest.mark.parametrize("size", [1, 4, 64])
def test_dearer_rows_never_make_more_drafts(size):
    survival = chances(*np.linspace(0.5, 0.95, size))
    budgets = [budget_at(survival, row=row) for row in (0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)]
    assert budgets == sorted(budgets, reverse=True)
    assert budgets[0] > budgets[-1]


def test_surer_drafts_never_make_fewer():
    budgets = [budget_at(chances(*[chance] * 8), row=0.3) for chance in (0.1, 0.3, 0.5, 0.7, 0.9, 0.99)]
    assert budgets == sorted(budgets)
    assert budgets[0] < budgets[-1]


def test_a_charge_is_paid_only_by_those_who_still_gain():
    at = linear_table().at(32)
    survival = chances(0.9, 0.9)
    chosen, gain = choose_drafting(at, 2, at.plain_s(2), survival, np.array([0.0, 1.0]))
    assert chosen.tolist() == [True, False]
    assert gain[0] > 0 > gain[1]
