"""Arms by slot and by key: pure, balanced in every block, in an order that only the salt tells."""

from collections import Counter

from core.experiments.assignment import arm_of_key, arm_of_slot, slot_at

WEIGHTS = {"a": 1, "b": 1}


def orders(salt, worker="", num_blocks=400):
    return ["".join(arm_of_slot(salt, WEIGHTS, slot, worker) for slot in (2 * b, 2 * b + 1)) for b in range(num_blocks)]


def test_every_block_has_each_arm_as_often_as_its_weight():
    assert set(orders("s")) == {"ab", "ba"}
    weights = {"a": 3, "b": 1, "c": 2}
    for block in range(50):
        assert Counter(arm_of_slot("s", weights, 6 * block + i) for i in range(6)) == weights


def test_either_order_is_as_likely_and_depends_on_salt_worker_and_block_alone():
    first = orders("s")
    assert first == orders("s")
    assert 150 < first.count("ab") < 250
    # Two sequences that know nothing of each other agree in half of all blocks.
    for other in (orders("t"), orders("s", "w1"), first[1:] + first[:1]):
        assert 150 < sum(map(str.__eq__, first, other)) < 250


def test_keys_fall_by_weight_and_stay():
    weights = {"a": 1, "b": 3}
    arms = [arm_of_key("s", weights, f"user-{i}") for i in range(2000)]
    assert arms == [arm_of_key("s", weights, f"user-{i}") for i in range(2000)]
    assert 1400 < arms.count("b") < 1600


def test_slots_count_from_the_start_of_time():
    assert [slot_at(now, 60.0) for now in (0.0, 59.9, 60.0, 119.9)] == [0, 0, 1, 1]
