"""What usual batches ask for is captured before the first of them, or the start fails with what to change."""

import pytest
import torch
from msgspec.structs import replace
from structlog.testing import capture_logs

from core.config import EngineSettings
from core.errors import ConfigError
from drafters.ngram import NGram
from engine import graphed_drafts, graphed_forward
from engine.graph_sizes import graph_sizes, pick_graph_sizes
from engine.graphs import run_anew
from engine.warm_up import Left, capture_graphs, check_left, step_bytes
from models.experts import SparseMLP
from policies.fixed import Fixed
from toys import SHAPE, make_engine, request, run, tiny_dspark, tiny_target

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
GRAPHED = replace(SHAPE, graph_sizes=(1, 2, 4))
MIB = 1 << 20


@pytest.mark.parametrize(
    ("choice", "device", "expected"),
    [("auto", CUDA, (1, 2, 3, 4)), ("on", CUDA, (1, 2, 3, 4)), ("off", CUDA, ()), ("auto", CPU, ()), ("off", CPU, ())],
)
def test_graphs_are_for_a_gpu_unless_they_are_off(choice, device, expected):
    assert pick_graph_sizes(choice, device, 4) == expected


def test_graphs_asked_for_on_a_cpu_are_an_error():
    with pytest.raises(ConfigError, match=r"engine.graphs is 'on', and this engine computes on the cpu"):
        pick_graph_sizes("on", CPU, 4)
    assert EngineSettings().graphs == "auto"


@pytest.mark.parametrize("most", [1, 2, 5, 64, 100, 257])
def test_no_batch_is_padded_by_more_than_half_of_itself(most):
    sizes = graph_sizes(most)
    assert sizes == tuple(sorted(set(sizes)))
    assert sizes[-1] == most
    for number in range(1, most + 1):
        assert next(size for size in sizes if size >= number) <= 1.5 * number


def test_all_that_usual_batches_ask_for_is_captured_largest_first(monkeypatch):
    captured = []

    def capture_on(device):
        return lambda work: captured.append(work) or run_anew(work)

    for module in (graphed_drafts, graphed_forward):
        monkeypatch.setattr(module, "capture_on", capture_on)
    target = tiny_target()
    engine = make_engine(target, tiny_dspark(target), Fixed(3), GRAPHED)
    with capture_logs() as logs:
        capture_graphs(engine, needs_all=True)
    (done,) = (line for line in logs if line["event"] == "graphs_captured")
    # Plain steps with features and without, those with drafts with them; greedy drafts and sampled ones.
    assert (done["target"], done["drafts"], done["eager"]) == (3 * 2 + 3, 3 * 2, [])
    assert len(captured) == 15
    sizes = [line["shape"] for line in logs if line["event"] == "captured" and line["work"] == "dspark"]
    assert [shape[1] for shape in sizes] == ["4", "4", "2", "2", "1", "1"]
    run(engine, [request((1, 2, 3), 1, max_tokens=8, temperature=0.7)])
    run(engine, [request((1, 2, 3), 1, max_tokens=8, temperature=0.0)])
    # Nobody had to wait for one.
    assert len(captured) == 15
    assert engine.graphed.graphs.num_replayed > 0


def test_what_cannot_be_captured_is_named_and_an_error_only_where_all_must_be():
    target = tiny_target()
    engine = make_engine(target, NGram(max_drafts=3), Fixed(3), GRAPHED)
    with capture_logs() as logs:
        capture_graphs(engine, needs_all=False)
    assert [line["eager"] for line in logs if line["event"] == "graphs_captured"] == [["ngram"]]
    with pytest.raises(ConfigError, match=r"engine.graphs is 'on', and ngram cannot be captured"):
        capture_graphs(engine, needs_all=True)


def test_a_target_that_looks_at_values_is_not_captured_and_its_drafter_is():
    target = tiny_target()
    drafter = tiny_dspark(target)
    target.mixture = SparseMLP(4, 4, 2, 1, is_normed=True)
    engine = make_engine(target, drafter, Fixed(3), GRAPHED)
    assert engine.graphed is None
    capture_graphs(engine, needs_all=False)
    assert len(engine.memory.speculators["dspark"].graphed.graphs) == 6


def test_a_full_step_must_fit_beside_the_graphs():
    left = Left(graphs=300 * MIB, free=900 * MIB, step=1000 * MIB)
    check_left(replace(left, step=900 * MIB), 2000 * MIB, 1000)
    with pytest.raises(ConfigError, match=r"300 MiB of graphs, and a full step takes 1000; .* by 50, or"):
        check_left(left, 2000 * MIB, 1000)


def test_a_full_step_is_counted_by_its_logits():
    target = tiny_target()
    engine = make_engine(target, tiny_dspark(target), Fixed(3), SHAPE)
    assert step_bytes(engine.memory, 32) == 3 * 16 * (1 + engine.memory.width) * 32 * 4
