import math

import pytest
import torch

from core.errors import EngineError, ShapeError
from core.planning import EarlyStop, FixedLength, Threshold, TopK
from core.tensors import Favour
from kernels.admit import admit, admit_triton
from kernels.admit_host import admit_host
from kernels.reference import admit as admit_twin
from tests.kernels.cases import random_survival
from tests.kernels.oracles import admitted

SMOOTH = tuple(1 + 0.08 * n + 0.003 * n * n for n in range(400))
STAIRS = tuple(1 + 0.5 * (n // 8) for n in range(60))
RULES = {
    "fixed": FixedLength(length=2),
    "conditional": Threshold(value=0.5),
    "cumulative": Threshold(value=0.25, cumulative=True),
    "top_k": TopK(budget=5),
    "early_stop": EarlyStop(step_s=SMOOTH),
    "early_stop_stairs": EarlyStop(step_s=STAIRS),
    "early_stop_filled": EarlyStop(step_s=SMOOTH, tops=(3, 8, 16, 50)),
}
SIZES = [(1, 1), (1, 7), (63, 7), (100, 5), (257, 3)]
SMALL = [(1, 1), (3, 7), (23, 7), (63, 3)]


def case(batch, width):
    """Return arguments of `admit` with every rule in a group of its own, and what the walk over drafts says."""
    survival, drafted, _ = random_survival(batch, width, seed=batch + width)
    rules = tuple(RULES.values())
    group = torch.arange(batch) % (len(rules) + 1)  # the last group has no rule
    expected = admitted(survival.tolist(), drafted.tolist(), group.tolist(), rules)
    return (survival, drafted, group, rules), expected


@pytest.mark.parametrize(("batch", "width"), SIZES, ids=lambda n: str(n))
def test_twin_admits_what_the_rules_say(batch, width):
    arguments, expected = case(batch, width)
    assert admit_twin(*arguments).tolist() == expected


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
@pytest.mark.parametrize(("batch", "width"), SIZES, ids=lambda n: str(n))
def test_twin_admits_one_group(batch, width, rule):
    survival, drafted, _ = random_survival(batch, width, seed=batch * width)
    group = torch.zeros(batch, dtype=torch.int64)
    expected = admitted(survival.tolist(), drafted.tolist(), group.tolist(), (rule,))
    assert admit_twin(survival, drafted, group, (rule,)).tolist() == expected


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
@pytest.mark.parametrize(("batch", "width"), SMALL, ids=lambda n: str(n))
def test_triton_admits_as_the_twin(batch, width, rule, poisoned):
    survival, drafted, group = random_survival(batch, width, seed=batch)
    arguments = survival, drafted, group, (FixedLength(length=1), rule)
    assert torch.equal(admit_triton(*arguments), admit_twin(*arguments))


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
@pytest.mark.parametrize(("batch", "width"), SIZES, ids=lambda n: str(n))
def test_the_host_admits_as_the_twin(batch, width, rule):
    survival, drafted, group = random_survival(batch, width, seed=batch)
    rules = (FixedLength(length=1), rule)
    for favour in (None, favours(batch, width)):
        found = admit_host(survival, drafted, group, rules, favour)
        assert torch.equal(found, admit_twin(survival, drafted, group, rules, favour))


def favours(batch, width):
    rng = torch.Generator().manual_seed(batch + width)
    floor = torch.randint(-1, width + 2, (batch,), generator=rng, dtype=torch.int32)
    weight = 0.1 + 3 * torch.rand(batch, generator=rng)
    return Favour(torch.where(torch.rand(batch, generator=rng) < 0.5, 0, floor), weight)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
@pytest.mark.parametrize(("batch", "width"), SMALL, ids=lambda n: str(n))
def test_who_is_favoured_goes_first_under_twin_and_triton(batch, width, rule, poisoned):
    survival, drafted, group = random_survival(batch, width, seed=3 * batch)
    favour, rules = favours(batch, width), (FixedLength(length=1), rule)
    lists = (each.tolist() for each in (survival, drafted, group))
    expected = admitted(*lists, rules, favour.floor.tolist(), favour.weight.tolist())
    assert admit_twin(survival, drafted, group, rules, favour).tolist() == expected
    assert admit_triton(survival, drafted, group, rules, favour).tolist() == expected
    assert admit_host(survival, drafted, group, rules, favour).tolist() == expected


@pytest.mark.parametrize("body", [admit_twin, admit_host, admit_triton], ids=["twin", "host", "triton"])
def test_weights_say_on_whom_the_budget_is_spent(body, poisoned):
    survival, drafted, _ = random_survival(40, 4, seed=9)
    # Others' drafts are in the batch and take none of it.
    group = torch.arange(40) % 3
    favour = Favour(torch.zeros(40, dtype=torch.int32), favours(40, 4).weight)
    lists = (each.tolist() for each in (survival, drafted, group))
    rules = (FixedLength(length=1), TopK(budget=9))
    found = body(survival, drafted, group, rules, favour)
    assert found.tolist() == admitted(*lists, rules, favour.floor.tolist(), favour.weight.tolist())
    assert not torch.equal(found, body(survival, drafted, group, rules))


def test_floors_are_paid_from_the_budget_and_verified_beyond_it():
    survival, drafted = torch.tensor([[0.9, 0.8], [0.5, 0.1]]), torch.tensor([2, 2], dtype=torch.int32)
    group = torch.zeros(2, dtype=torch.int64)
    for floor, budget, expected in (([0, 1], 1, [0, 1]), ([0, 2], 3, [1, 2]), ([2, 2], 1, [2, 2])):
        favour = Favour(torch.tensor(floor, dtype=torch.int32), torch.ones(2))
        for body in (admit_twin, admit_host):
            assert body(survival, drafted, group, (TopK(budget),), favour).tolist() == expected


def test_host_and_triton_break_ties_by_position_then_row():
    survival, drafted = torch.ones(3, 2), torch.full((3,), 2, dtype=torch.int32)
    group = torch.zeros(3, dtype=torch.int64)
    assert admit(survival, drafted, group, (TopK(budget=4),)).tolist() == [2, 1, 1]
    assert admit_triton(survival, drafted, group, (TopK(budget=4),)).tolist() == [2, 1, 1]


@pytest.mark.parametrize("body", [admit_twin, admit_host, admit_triton], ids=["twin", "host", "triton"])
@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (FixedLength(length=-3), [0, 0]),
        (FixedLength(length=10**12), [3, 2]),
        (Threshold(value=-1.0), [3, 2]),
        (Threshold(value=0.0, cumulative=True), [3, 2]),
        (Threshold(value=math.inf), [0, 0]),
        (Threshold(value=math.nan), [0, 0]),
        (TopK(budget=-1), [0, 0]),
        (TopK(budget=10**12), [3, 2]),
        (EarlyStop(step_s=()), [0, 0]),
        (EarlyStop(step_s=(1.0,)), [0, 0]),
        (EarlyStop(step_s=(1.0, 1.0, 1.0)), [1, 1]),
        (EarlyStop(step_s=(1.0, math.nan, 1.0)), [0, 0]),
        (EarlyStop(step_s=(1.0,) * 50), [3, 2]),
    ],
    ids=str,
)
def test_silly_parameters_are_harmless(body, rule, expected):
    survival = torch.tensor([[0.9, 0.8, 0.7], [0.9, 0.8, 0.7]])
    drafted = torch.tensor([3, 2], dtype=torch.int32)
    assert body(survival, drafted, torch.zeros(2, dtype=torch.int64), (rule,)).tolist() == expected


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_unknown_survival_admits_nothing(rule):
    survival = torch.full((2, 3), torch.nan)
    drafted = torch.full((2,), 3, dtype=torch.int32)
    assert admit(survival, drafted, torch.zeros(2, dtype=torch.int64), (rule,)).tolist() == [0, 0]


@pytest.mark.parametrize("rule", [RULES["top_k"], RULES["early_stop"]], ids=["top_k", "early_stop"])
def test_a_draft_that_cannot_survive_takes_no_row(rule):
    survival = torch.tensor([[0.5, 0.0], [0.0, 0.0]])
    drafted = torch.full((2,), 2, dtype=torch.int32)
    assert admit(survival, drafted, torch.zeros(2, dtype=torch.int64), (rule,)).tolist() == [1, 0]


@pytest.mark.parametrize("body", [admit_twin, admit_host, admit_triton], ids=["twin", "host", "triton"])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_later_survivals_never_move_earlier_admissions(body, rule):
    # What is admitted up to place j of the last row must not change when only later places of that row do.
    survival, drafted, _ = random_survival(5, 4, seed=3)
    group = torch.zeros(5, dtype=torch.int64)
    drafted[4] = 4
    survival[4] = torch.tensor([0.9, 0.6, 0.5, 0.4])
    before = int(body(survival, drafted, group, (rule,))[4])
    survival[4, 2:] = torch.tensor([0.01, 0.001])
    assert min(before, 2) == min(int(body(survival, drafted, group, (rule,))[4]), 2)


def test_nothing_to_admit_is_fine():
    none = torch.zeros(0, dtype=torch.int32)
    assert admit(torch.zeros(0, 3), none, none.long(), (TopK(budget=1),)).tolist() == []
    assert admit(torch.zeros(2, 0), torch.zeros(2).int(), torch.zeros(2).long(), (TopK(budget=1),)).tolist() == [0, 0]


@pytest.mark.parametrize("body", [admit_twin, admit_host, admit_triton], ids=["twin", "host", "triton"])
def test_unknown_rules_and_wrong_shapes_are_refused(body):
    survival, drafted, group = random_survival(3, 2, seed=0)
    with pytest.raises(EngineError, match="rule"):
        body(survival, drafted, torch.zeros_like(group), ("greedy",))
    with pytest.raises(ShapeError):
        body(survival, drafted[:-1], group, (TopK(budget=1),))
