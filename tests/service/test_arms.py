"""Arms: the split is sticky, follows the weights, and the same on every machine."""

import pytest

from core.config import ArmSettings
from core.types import Speculation
from service.door.arms import Arm, Arms, place

HALVES = {"control": ArmSettings(policy="fixed"), "treatment": ArmSettings(policy="load_adaptive", max_drafts=4)}


def shares(arms: Arms, num_keys: int = 20_000) -> dict[str, float]:
    names = [arms.pick(f"user-{index}").name for index in range(num_keys)]
    return {name: names.count(name) / num_keys for name in set(names)}


def test_without_arms_nobody_is_in_one():
    assert Arms({}).pick("anybody") is None


def test_an_arm_is_a_name_and_a_speculation():
    arms = Arms({"only": ArmSettings(drafter="ngram", policy="fixed", max_drafts=3)})
    assert arms.pick("anybody") == Arm("only", Speculation(3, "ngram", "fixed"))


def test_a_user_is_always_in_the_same_arm():
    keys = [f"user-{index}" for index in range(200)]
    assert [Arms(HALVES).pick(key) for key in keys] == [Arms(HALVES).pick(key) for key in keys]


def test_the_split_is_the_same_in_every_process():
    # Values of another run, so that no seed of the process can be in them.
    assert [place(key) for key in ("", "ada", "Grüße")] == [0.9542934054087255, 0.4456995707811232, 0.7942263734508376]


@pytest.mark.parametrize(
    "weights", [(1.0, 1.0), (1.0, 3.0), (0.05, 0.95), (20.0, 30.0, 50.0)], ids=lambda weights: str(weights)
)
def test_shares_follow_the_weights(weights):
    found = shares(Arms({f"arm-{index}": ArmSettings(weight) for index, weight in enumerate(weights)}))
    # Four standard deviations of a share over 20,000 keys are at most 0.0142.
    assert found == pytest.approx({f"arm-{i}": w / sum(weights) for i, w in enumerate(weights)}, abs=0.0142)


def test_a_weight_may_grow_without_moving_anybody_out_of_the_first_arm():
    before = Arms({"first": ArmSettings(1.0), "second": ArmSettings(1.0)})
    after = Arms({"first": ArmSettings(3.0), "second": ArmSettings(1.0)})
    keys = [f"user-{index}" for index in range(1000)]
    assert all(after.pick(key).name == "first" for key in keys if before.pick(key).name == "first")


def test_the_end_of_the_line_belongs_to_the_last_arm(monkeypatch):
    arms = Arms({f"arm-{index}": ArmSettings(0.1) for index in range(10)})
    monkeypatch.setattr("service.door.arms.place", lambda _: 1.0 - 2**-53)
    assert arms.pick("anybody").name == "arm-9"
