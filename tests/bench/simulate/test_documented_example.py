"""The example of docs/simulator.md can be simulated, and shows what it says."""

import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from bench.simulate.case import Case, play
from bench.simulate.report import death_lines
from bench.simulate.settings import read_simulation

TEXT = (Path(__file__).parents[3] / "docs" / "simulator.md").read_text(encoding="utf-8")


@pytest.fixture
def documented(tmp_path):
    path = tmp_path / "simulation.toml"
    path.write_text(re.search(r"```toml\n(.*?)```", TEXT, re.DOTALL)[1])
    return read_simulation(path, {})


def test_the_example_shows_what_deaths_cost(documented):
    # Few requests are enough, and quicker: deaths come by the clock.
    outcome = play(Case(documented, "off", 4.0, documented.fleet.workers))
    assert outcome.deaths == 3
    # Whoever was on a dead worker waits for the lease.
    assert outcome.taken_over > 0
    assert outcome.longest_s > documented.fleet.lease_s
    (line,) = death_lines([outcome])
    assert (
        f"3 worker(s) died, {outcome.taken_over} job(s) went on elsewhere, the longest wait for tokens was 10." in line
    )


def test_without_deaths_nobody_waits_so_long_and_nothing_is_said(documented):
    fleet = replace(documented.fleet, failures=replace(documented.fleet.failures, at_s=()))
    outcome = play(Case(replace(documented, fleet=fleet, seconds=20.0), "off", 4.0, fleet.workers))
    assert 0 < outcome.longest_s < 1
    assert death_lines([outcome]) == []
