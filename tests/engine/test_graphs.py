"""Padding a batch to a bucket changes nothing of its own rows; what no bucket holds runs as it is.

Captured or not, a forward reads and writes the same tensors: here, without a GPU, it is run anew each time.
"""

import pytest
import torch
from msgspec.structs import replace

from core.tensors import VerifyRows
from core.types import Numerics
from engine.graphed_forward import Bucket, fill, nobodys_rows
from policies.fixed import Fixed, Off
from toys import SHAPE, make_engine, request, run, tiny_dspark, tiny_target

PROMPTS = [tuple((3 * i + 5 * j * j) % 32 for j in range(2 + 9 * i)) for i in range(5)]
GRAPHED = replace(SHAPE, graph_sizes=(2, 4))


@pytest.fixture(scope="module")
def target():
    """One whose rows are the same bits whatever is beside them, padding too."""
    return tiny_target(numerics=Numerics.BATCH_INVARIANT)


def requests():
    return [request(p, i, str(i), max_tokens=10 + 4 * i, temperature=0.8) for i, p in enumerate(PROMPTS)]


@pytest.mark.parametrize("policy", [Off(), Fixed(4)], ids=["plain", "drafting"])
def test_padded_batches_say_what_others_say(target, policy):
    drafter = None if isinstance(policy, Off) else tiny_dspark(target)
    expected = run(make_engine(target, drafter, policy, SHAPE), requests())
    engine = make_engine(target, drafter, policy, GRAPHED)
    assert run(engine, requests()) == expected
    assert drafter is None or 0 < engine.stats.accepted < engine.stats.verified
    # Five sequences, and prompts, are in no bucket.
    assert engine._forward.graphs.num_replayed > engine._forward.graphs.num_eager > 0


@pytest.mark.parametrize(
    ("num_sequences", "num_rows", "expected"),
    [(1, 1, Bucket(2, 2)), (2, 2, Bucket(2, 2)), (2, 3, Bucket(4, 4)), (3, 3, Bucket(4, 4)), (1, 9, Bucket(10, 2)),
     (3, 5, Bucket(20, 4)), (4, 21, None), (5, 5, None)],
)  # fmt: skip
def test_the_least_bucket_that_holds_a_batch_takes_it(target, num_sequences, num_rows, expected):
    forward = make_engine(target, tiny_dspark(target), Fixed(4), GRAPHED)._forward
    assert forward.bucket_of(batch(num_sequences, num_rows)) == expected


def batch(num_sequences, num_rows, columns=3):
    bounds = torch.tensor([*range(num_sequences), num_rows])
    numbers = torch.arange(1, num_rows + 1)
    return VerifyRows(numbers, numbers, bounds, torch.ones(num_sequences, columns, dtype=torch.int64))


def test_nothing_of_a_larger_batch_is_left_in_a_bucket():
    into = nobodys_rows(Bucket(8, 4), torch.zeros(1, 3, dtype=torch.int64))
    fill(into, batch(4, 8))
    fill(into, batch(2, 3))
    assert into.tokens.tolist() == into.positions.tolist() == [1, 2, 3, 0, 0, 0, 0, 0]
    assert into.cu_rows.tolist() == [0, 1, 3, 3, 3, 8]
    assert into.block_tables.tolist() == [[1] * 3] * 2 + [[0] * 3] * 3
    assert into.stores.tolist() == [True] * 3 + [False] * 5


def test_rows_of_nobody_write_to_no_block_of_anybody(target):
    engine = make_engine(target, None, Off(), GRAPHED)
    engine.add(request(PROMPTS[1], 1, max_tokens=6))
    engine.step()
    (sequence,) = engine.scheduler.running
    before = engine.memory.kv.keys[0].clone()
    engine.step()
    changed = (engine.memory.kv.keys[0] != before).flatten(1).any(1).nonzero().flatten().tolist()
    assert set(changed) <= {0, *sequence.blocks}
    assert engine._forward.graphs.num_replayed == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device to capture graphs on")
def test_a_captured_forward_gives_what_it_gives_when_it_runs(target):
    on_device = tiny_target().to("cuda")
    expected = run(make_engine(on_device, None, Off(), SHAPE), requests())
    assert run(make_engine(on_device, None, Off(), GRAPHED), requests()) == expected
