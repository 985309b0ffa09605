"""A drafter replayed from graphs drafts what it drafts when it is called, and is asked itself where no graph fits.

No device is needed: tests/engine/pretend_graphs.py says what is pretended.
"""

import dataclasses

import pytest
import torch
from msgspec.structs import replace
from structlog.testing import capture_logs

from core.tensors import CoupledKeys, DraftAsk, PagedKV, Processing
from core.types import Numerics
from drafters.dspark import DSpark
from drafters.ngram import NGram
from engine import graphed_drafts, graphed_forward
from engine.graphed_drafts import Laws, can_replay, fill_ask, laws_of
from engine.graphs import MOST_ROWS
from policies.fixed import Fixed
from tests.engine.pretend_device import move, pretended
from tests.engine.pretend_graphs import Pool
from tests.engine.pretend_kernels import stand_in
from toys import SHAPE, make_engine, request, run, tiny_dflash, tiny_dspark, tiny_eagle3, tiny_target

PROMPTS = [tuple((3 * i + 5 * j * j) % 32 for j in range(2 + 5 * i)) for i in range(3)]
GRAPHED = replace(SHAPE, graph_sizes=(1, 4))
LAWS = {
    "greedy": [{"temperature": 0.0}] * 3,
    "sampled": [{"temperature": 0.9}] * 3,
    "mixed": [{"temperature": 0.0}, {"temperature": 0.7, "top_p": 0.9}, {}],
    "seeded": [{"temperature": 0.9, "seed": 3}] * 3,
    "seeded beside others": [{"temperature": 0.0}, {"temperature": 0.7, "seed": 3}, {"temperature": 0.9, "top_p": 0.9}],
}


@pytest.fixture
def pools(monkeypatch):
    """The pretended device, its kernels and its graphs; the pools of memory in the order they were made."""
    stand_in(monkeypatch)
    made = []

    def capture_on(device):
        made.append(Pool())
        return made[-1]

    for module in (graphed_drafts, graphed_forward):
        monkeypatch.setattr(module, "capture_on", capture_on)
    return made


def requests(law):
    # Of different lengths, so that the batch shrinks from bucket to bucket.
    return [request(p, i, str(i), max_tokens=6 + 5 * i, **LAWS[law][i]) for i, p in enumerate(PROMPTS)]


def make(drafter, policy=lambda: Fixed(3), shape=SHAPE, where=lambda network: network):
    target = tiny_target(numerics=Numerics.BATCH_INVARIANT)
    made = drafter(target)
    where(target)
    if hasattr(made, "network"):
        where(made.network)
    return make_engine(target, made, policy(), shape)


def graphs_of(engine):
    (speculator,) = (each for each in engine.memory.speculators.values() if each.drafter)
    return speculator.graphed and speculator.graphed.graphs


@pytest.mark.parametrize(
    ("drafter", "laws"),
    # Greedy batches, and then others of the same sizes: each kind of laws has graphs of its own.
    [
        (tiny_dspark, ["greedy", "mixed"]),
        (tiny_dspark, ["sampled", "seeded"]),
        (tiny_dspark, ["seeded beside others"]),
        (tiny_dflash, ["sampled"]),
        (tiny_dflash, ["seeded"]),
    ],
)
def test_replayed_drafts_and_texts_are_those_of_an_engine_without_graphs(pools, drafter, laws):
    plain = make(drafter)
    expected = [run(plain, requests(law)) for law in laws]
    with pretended() as device:
        engine = make(drafter, shape=GRAPHED, where=move)
        said, num_steps = [run(engine, requests(law)) for law in laws], engine.stats.steps
    assert said == expected
    assert (engine.stats.drafted, engine.stats.accepted) == (plain.stats.drafted, plain.stats.accepted)
    assert 0 < engine.stats.accepted < engine.stats.verified
    graphs = graphs_of(engine)
    assert (graphs.num_eager, graphs.is_broken) == (0, False)
    # A pool for the drafter, and one for the target, which runs while drafts are still to be read.
    drafts, forwards = pools
    assert graphs.num_replayed == sum(graph.num_runs for graph in drafts.graphs) > len(graphs) > 1
    assert sum(graph.num_runs for graph in forwards.graphs) == engine._forward.graphs.num_replayed > 0
    assert not engine.stats.fallbacks
    assert device.waits == {"engine/device.py: host.copy_(packed)": num_steps}


@pytest.mark.parametrize(
    ("asked", "reason"),
    [({"logit_bias": ((3, 2.0),)}, "edits"), ({"top_k": 0}, "a larger batch")],
)
def test_asks_that_no_bucket_holds_go_to_the_drafter_itself(pools, asked, reason):
    law = {"temperature": 0.9} | asked
    wanted = [request(p, i, str(i), max_tokens=6 + 4 * i, **law) for i, p in enumerate(PROMPTS)]
    expected = run(make(tiny_dspark), wanted)
    with pretended():
        engine = make(tiny_dspark, shape=replace(SHAPE, graph_sizes=(2,)), where=move)
        assert run(engine, wanted) == expected
    graphs = graphs_of(engine)
    assert graphs.num_eager > 0
    assert (graphs.num_replayed > 0) == (reason == "a larger batch")


@pytest.mark.parametrize("make_drafter", [lambda target: NGram(max_drafts=3), tiny_eagle3], ids=["ngram", "eagle3"])
def test_a_drafter_whose_work_varies_is_not_captured(make_drafter):
    expected = run(make(make_drafter), requests("sampled"))
    engine = make(make_drafter, shape=GRAPHED)
    assert graphs_of(engine) is None
    assert run(engine, requests("sampled")) == expected


def test_a_drafter_that_cannot_be_captured_though_it_says_so_drafts_as_before(pools, monkeypatch):
    honest = DSpark.propose

    def looks(drafter, ask):
        int(ask.positions.max())
        return honest(drafter, ask)

    monkeypatch.setattr(DSpark, "propose", looks)
    expected = run(make(tiny_dspark), requests("sampled"))
    with pretended(), capture_logs() as logs:
        engine = make(tiny_dspark, shape=GRAPHED, where=move)
        assert run(engine, requests("sampled")) == expected
    assert (graphs_of(engine).is_broken, graphs_of(engine).num_replayed) == (True, 0)
    assert engine.stats.accepted > 0
    assert not engine.stats.fallbacks
    # It is tried once, and said once.
    assert [line["work"] for line in logs if line["event"] == "capture_failed"] == ["dspark"]


def test_a_bucket_of_more_rows_than_are_worth_it_is_not_captured():
    engine = make(tiny_dspark, shape=replace(SHAPE, max_num_seqs=1024, graph_sizes=(8, 256, 512)))
    width = engine.memory.width
    (speculator,) = (each for each in engine.memory.speculators.values() if each.drafter)
    assert speculator.graphed.sizes == tuple(size for size in (8, 256, 512) if size * width <= MOST_ROWS)
    assert 0 < len(speculator.graphed.sizes) < 3


def test_nothing_of_a_larger_ask_is_left_where_it_would_be_written_to():
    engine = make(tiny_dspark, shape=GRAPHED)
    (speculator,) = (each for each in engine.memory.speculators.values() if each.drafter)
    graphed = speculator.graphed
    inputs = graphed.warm(4, Laws(truncates=False, is_greedy=False)).inputs
    fill_ask(inputs, ask(4))
    fill_ask(inputs, ask(2))
    own = inputs.ask
    assert own.gumbel is None
    assert own.positions.tolist() == [7, 7, 0, 0]
    assert own.kv.block_tables[:, 0].tolist() == [5, 5, 0, 0]
    assert own.anchors[:2].tolist() == own.slots[:2].tolist() == own.lengths[:2].tolist() == [3, 3]
    assert own.processing.temperature[:2].tolist() == own.processing.top_p[:2].tolist() == [0.5, 0.5]


def test_a_seeded_ask_brings_what_names_its_noise():
    engine = make(tiny_dspark, shape=GRAPHED)
    (speculator,) = (each for each in engine.memory.speculators.values() if each.drafter)
    seeded = Laws(truncates=True, is_greedy=False, is_coupled=True)
    inputs, fives = speculator.graphed.warm(4, seeded).inputs, torch.full((2,), 5)
    asked = dataclasses.replace(ask(2), gumbel=CoupledKeys(fives, fives + 1, fives + 2, fives + 3), coupled=fives > 0)
    assert laws_of(asked) == seeded
    assert can_replay(asked)
    # As numbers it would be as large as the logits.
    assert not can_replay(dataclasses.replace(asked, gumbel=torch.zeros(2, 4, 32)))
    fill_ask(inputs, asked)
    own = inputs.ask
    names = own.gumbel.low, own.gumbel.high, own.gumbel.child, own.gumbel.first
    assert [each[:2].tolist() for each in names] == [[5, 5], [6, 6], [7, 7], [8, 8]]
    assert own.coupled.tolist() == [True, True, False, False]


def ask(size):
    """One that has 3, 5, 7 or a half everywhere."""
    threes, halves = torch.full((size,), 3), torch.full((size,), 0.5)
    tables = torch.full((size, make(tiny_dspark).memory.slots.block_tables.shape[1]), 5)
    processing = Processing(halves, threes, halves, halves, is_plain=False, truncates=True)
    kv = PagedKV((), (), tables, 4)
    noise = torch.full((size, 4), 0.5)
    return DraftAsk(threes, threes, torch.full((size,), 7), threes, processing, noise, kv)


def test_one_pool_for_both_would_lose_the_drafts_that_are_verified(pools, monkeypatch):
    """A planted bug: the verification computes where the drafts lie."""
    one = Pool()
    for module in (graphed_drafts, graphed_forward):
        monkeypatch.setattr(module, "capture_on", lambda device: one)
    expected = run(make(tiny_dspark), requests("sampled"))
    with pretended():
        assert run(make(tiny_dspark, shape=GRAPHED, where=move), requests("sampled")) != expected
