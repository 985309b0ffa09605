"""Policies go by what their engine thinks that steps cost, and steps take what they take."""

import msgspec
import pytest
from msgspec.structs import replace

from bench.simulate.case import play
from bench.simulate.check import Known, case_of
from bench.simulate.machine import StepWork, make_pricing
from bench.simulate.settings import Costs
from core.errors import ConfigError
from engine.cost_cache import SavedTable
from tests.bench.simulate.cases import FOLLOW_S, PLAIN_S, TABLE, simulation

# What an engine believes for which a draft costs as much as a hundred tokens.
RUINOUS = replace(TABLE, verify_s=tuple(tuple((low, 100 * high) for low, high in rows) for rows in TABLE.verify_s))
STEP = StepWork(1, 1, 1, 1, 3, 0, 0, 64.0)


@pytest.fixture
def costs(tmp_path):
    """A machine of the tiny world's table, and an engine that believes its drafts ruinous."""
    for name, table in (("table", TABLE), ("shown", RUINOUS)):
        (tmp_path / name).write_bytes(msgspec.json.encode(SavedTable("", table)))
    return Costs(table=str(tmp_path / "table"), shown=str(tmp_path / "shown"))


def test_policies_see_one_table_and_steps_are_priced_by_the_other(costs):
    pricing = make_pricing(costs)
    assert pricing.table == RUINOUS
    assert pricing.step_s(STEP) == pytest.approx(PLAIN_S + FOLLOW_S + 0.003)


def test_a_slower_machine_is_slower_in_both(costs):
    pricing = make_pricing(replace(costs, scale=2.0))
    assert pricing.step_s(STEP) == pytest.approx(2 * (PLAIN_S + FOLLOW_S + 0.003))
    assert pricing.table.plain_s == ((2 * PLAIN_S, 2 * PLAIN_S),)


def test_a_policy_that_is_wrong_about_its_machine_decides_wrongly(costs, tmp_path):
    wanted = simulation(loads=(2.0,), costs=replace(costs, shown=None), seconds=2.0)
    knowing, believing = (
        play(case_of(wanted, "load_adaptive", 2, Known(believed, {("load_adaptive", 2): 0.0}), tmp_path))
        for believed in ({}, {("load_adaptive", 2): RUINOUS})
    )
    assert knowing.verify_length > 1.0
    assert believing.verify_length < 0.1
    assert believing.tokens_per_s < knowing.tokens_per_s


def test_the_time_that_a_policy_takes_is_of_its_own_steps(costs, tmp_path):
    wanted = simulation(loads=(2.0,), costs=replace(costs, shown=None), seconds=4.0)
    took = {("fixed:1", 2): PLAIN_S, ("fixed:2", 2): 0.0}
    rates, free = (
        {key: play(case_of(wanted, key[0], 2, Known({}, each), tmp_path)).tokens_per_s for key in took}
        for each in (took, dict.fromkeys(took, 0.0))
    )
    assert rates["fixed:2", 2] == free["fixed:2", 2]
    step_s = PLAIN_S + FOLLOW_S + 0.002
    assert rates["fixed:1", 2] / free["fixed:1", 2] == pytest.approx(step_s / (step_s + PLAIN_S), rel=0.1)


def test_a_believed_table_that_cannot_be_read_is_named(costs, tmp_path):
    with pytest.raises(ConfigError, match=r"costs.shown must be a cost table's file, got 'nowhere'"):
        make_pricing(replace(costs, shown="nowhere"))
    (tmp_path / "shown").write_text("{}")
    with pytest.raises(ConfigError, match="shown holds no cost table"):
        make_pricing(costs)
