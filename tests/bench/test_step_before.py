"""A step now is measured beside a step of an earlier commit, by turns, and told as a ratio."""

from contextlib import contextmanager

import pytest

from bench import step_before
from core.errors import ConfigError


def test_a_commit_that_there_is_not_is_named(tmp_path):
    with pytest.raises(ConfigError, match="'no-such-commit' is no commit of this repository"):
        step_before.take_out("no-such-commit", tmp_path)


def test_the_ratio_is_of_now_to_before_and_both_have_as_many_turns(tmp_path, monkeypatch):
    turns = []

    class Tree:
        def __init__(self, folder):
            self.folder = folder

        def step_s(self):
            turns.append(self.folder)
            return 0.004 if self.folder == tmp_path else 0.001

    @contextmanager
    def running(folder, mode, batch):
        yield Tree(folder)

    monkeypatch.setattr(step_before, "running", running)
    found = step_before.measure("off", 1, tmp_path, 6)
    assert (found.before_ms, found.now_ms) == pytest.approx((4.0, 1.0))
    assert found.ratio.estimate == pytest.approx(0.25)
    assert turns.count(tmp_path) == turns.count(step_before.ROOT) == 6
    assert {tmp_path, step_before.ROOT} == set(turns[:2]) == set(turns[-2:])


@pytest.mark.slow
def test_a_tree_answers_with_the_time_of_its_steps():
    with step_before.running(step_before.ROOT, "fixed", 1) as tree:
        assert 0 < tree.step_s() < 10
