"""Two processes that share a target say, in float64, token for token what one says; a lost one is noticed at once."""

import multiprocessing
import os
import signal
import time
from datetime import timedelta
from itertools import product

import msgspec
import pytest
import torch
import torch.distributed as dist

from bench.prove.tiny import tiny_config
from core.config import EngineSettings
from core.errors import ConfigError, ReplicaLost
from drafters.ngram import NGram
from engine.engine import Engine
from engine.replica import Follower, Leader, join_ranks
from families import SIZES, draw
from models.checkpoint import save, split_fused
from models.llama import Llama, LlamaConfig
from models.load_target import load_target
from models.qwen3 import Qwen3
from models.qwen3_moe import Qwen3Moe, Qwen3MoeConfig
from models.tensor_parallel import Share
from policies.confidence import Confidence
from policies.fixed import Fixed, Off
from toys import SHAPE, request, run, tiny_dspark

NUM_RANKS = 2
CONFIGS = {
    "qwen3": (Qwen3, tiny_config(tied=False)),
    # Biases of the sums are added once, whatever the ranks.
    "llama": (Llama, LlamaConfig(**SIZES, num_hidden_layers=3, attention_bias=True, mlp_bias=True)),
    "qwen3_moe": (
        Qwen3Moe,
        Qwen3MoeConfig(
            **SIZES,
            num_hidden_layers=3,
            num_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=24,
            mlp_only_layers=(1,),
        ),
    ),
}
DRAFTERS = {"off": None, "dspark": tiny_dspark, "ngram": lambda _: NGram(max_drafts=4)}
LAWS = {"greedy": {"temperature": 0.0}, "sampled": {"temperature": 0.9, "top_p": 0.95}, "seeded": {"seed": 3}}
CELLS = [("qwen3", *rest) for rest in product(DRAFTERS, LAWS)] + [
    ("llama", "dspark", "sampled"),
    ("qwen3_moe", "dspark", "sampled"),
]
PROMPTS = [tuple((3 * i + 5 * j * j) % 32 for j in range(2 + 9 * i)) for i in range(4)]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A checkpoint of every family, in the ordinary layout."""
    folder = tmp_path_factory.mktemp("targets")
    for name, (family, config) in CONFIGS.items():
        network = family(config)
        draw(network, network.embedding, network.head, seed=5)
        with torch.no_grad():
            for parameter_name, parameter in network.named_parameters():
                if parameter_name.endswith("bias"):
                    parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
        told = {"architectures": [f"{family.__name__}ForCausalLM"], **msgspec.to_builtins(config)}
        save(folder / name, told, split_fused(network), torch.float32)
    return folder


def texts(target, cell, leader=None):
    """Run one cell's requests; returns its texts, and how many drafts were verified and accepted."""
    _, drafter_name, law = cell
    make = DRAFTERS[drafter_name]
    drafters = {drafter_name: make(target)} if make else {}
    policy = Fixed(4) if drafter_name == "ngram" else Confidence(0.3) if make else Off()
    engine = Engine(target, drafters, {policy.name: lambda: policy}, SHAPE, (), leader=leader)
    said = run(engine, [request(p, i, str(i), max_tokens=28, **LAWS[law]) for i, p in enumerate(PROMPTS)])
    assert not engine.stats.fallbacks
    return said, engine.stats.verified, engine.stats.accepted


@pytest.fixture(scope="module")
def alone(checkpoints):
    """What one process says in every cell."""
    targets = {name: load_target(checkpoints / name, torch.float64) for name in CONFIGS}
    return {cell: texts(targets[cell[0]], cell) for cell in CELLS}


class Ranks:
    """Two processes that have met; what the leader's work returns or raises comes back."""

    def __init__(self, folder, lead, follow, arguments=()):
        fork = multiprocessing.get_context("fork")
        self._answer, theirs = fork.Pipe(duplex=False)
        store = f"file://{folder}/store"
        self.processes = [
            fork.Process(target=_rank, args=(rank, store, theirs, lead, follow, arguments), daemon=True)
            for rank in range(NUM_RANKS)
        ]
        for process in self.processes:
            process.start()
        theirs.close()

    def answer(self, timeout_s=60):
        assert self._answer.poll(timeout_s), "the leader has said nothing"
        found = self._answer.recv()
        if isinstance(found, Exception):
            raise found
        return found

    def end(self):
        for process in self.processes:
            process.kill()
            process.join()


def _rank(rank, store, answer, lead, follow, arguments):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=NUM_RANKS, timeout=timedelta(seconds=60))
    share = Share(rank, NUM_RANKS)
    if rank:
        follow(share, *arguments)
        return
    try:
        answer.send(lead(share, *arguments))
    except Exception as error:
        answer.send(error)
    # What is left of the group must not wait for those that are gone.
    os._exit(0)


@pytest.fixture
def ranks(tmp_path):
    started = []

    def start(lead, follow, *arguments):
        started.append(Ranks(tmp_path, lead, follow, arguments))
        return started[-1]

    yield start
    for each in started:
        each.end()


def lead_cells(share, folder):
    found = {}
    for name in CONFIGS:
        target, leader = load_target(folder / name, torch.float64, share=share), Leader()
        assert target.shape.layers[0].num_kv_heads == 1
        found |= {cell: texts(target, cell, leader) for cell in CELLS if cell[0] == name}
        leader.close()
    return found


def follow_cells(share, folder):
    for name in CONFIGS:
        assert Follower(load_target(folder / name, torch.float64, share=share)).run() > 0


def test_two_ranks_say_what_one_says(checkpoints, alone, ranks):
    shared = ranks(lead_cells, follow_cells, checkpoints).answer()
    assert shared == alone
    for cell, (_, verified, accepted) in shared.items():
        assert (0 < accepted < verified) if cell[1] != "off" else verified == 0, cell


def lead_without_sums(share, folder):
    """A planted bug: one layer's results stay what this rank made of them."""
    target, leader = load_target(folder / "qwen3", torch.float64, share=share), Leader()
    target.layers[1].mlp = target.layers[1].mlp.part
    found = texts(target, CELLS[0], leader)
    leader.close()
    return found


def follow_without_sums(share, folder):
    target = load_target(folder / "qwen3", torch.float64, share=share)
    target.layers[1].mlp = target.layers[1].mlp.part
    Follower(target).run()


def test_a_layer_that_is_not_summed_is_noticed(checkpoints, alone, ranks):
    assert ranks(lead_without_sums, follow_without_sums, checkpoints).answer() != alone[CELLS[0]]


def lead_until_lost(share, folder):
    target, leader = load_target(folder / "qwen3", torch.float64, share=share), Leader()
    engine = Engine(target, {}, {"off": Off}, SHAPE, (), leader=leader)
    engine.add(request(PROMPTS[0], 1, max_tokens=400, ignore_eos=True))
    started_s = time.monotonic()
    try:
        while engine.has_work:
            engine.step()
    except ReplicaLost as error:
        # Nothing more is told to those that are left.
        leader.close()
        return str(error), time.monotonic() - started_s
    return "never noticed", 0.0


def follow_until_killed(share, folder):
    """Die as by kill -9, in the middle of the tenth forward."""
    follower = Follower(load_target(folder / "qwen3", torch.float64, share=share))
    honest, calls = follower._forward, []

    def dies(*arguments):
        calls.append(1)
        if len(calls) == 10:
            os.kill(os.getpid(), signal.SIGKILL)
        return honest(*arguments)

    follower._forward = dies
    follower.run()


def test_a_follower_that_dies_in_a_step_is_noticed_at_once(checkpoints, ranks):
    told, seconds = ranks(lead_until_lost, follow_until_killed, checkpoints).answer()
    assert "a rank of engine.tensor_parallel is lost" in told
    assert seconds < 20


def lead_and_fail(share, folder):
    target, leader = load_target(folder / "qwen3", torch.float64, share=share), Leader()
    engine = Engine(target, {}, {"off": Off}, SHAPE, (), leader=leader)
    engine.add(request(PROMPTS[0], 1, max_tokens=4))
    target.layers[1].mlp = None
    engine.step()


def follow_anything(share, folder):
    follower = Follower(load_target(folder / "qwen3", torch.float64, share=share))
    with pytest.raises(ReplicaLost):
        follower.run()


def test_a_forward_that_fails_between_two_sums_ends_the_replica(checkpoints, ranks):
    with pytest.raises(ReplicaLost, match="failed within a step"):
        ranks(lead_and_fail, follow_anything, checkpoints).answer()


@pytest.mark.parametrize(("num_ranks", "possible"), [(3, "1, 2 would"), (4, "1, 2 would")])
def test_ranks_that_do_not_divide_the_heads_are_refused_naming_those_that_do(checkpoints, num_ranks, possible):
    with pytest.raises(ConfigError, match=f"does not divide this target .2 KV heads.*{possible}"):
        load_target(checkpoints / "qwen3", torch.float32, share=Share(0, num_ranks))


def test_a_process_that_torchrun_did_not_start_says_how_to_start_it():
    with pytest.raises(ConfigError, match="torchrun --nproc-per-node 2"):
        join_ranks(EngineSettings(tensor_parallel=2), torch.device("cpu"))
    assert join_ranks(EngineSettings(), torch.device("cpu")) is None


def test_every_rank_reads_its_own_part_of_the_files_and_no_more(checkpoints):
    whole = load_target(checkpoints / "qwen3_moe", torch.float32)
    parts = [load_target(checkpoints / "qwen3_moe", torch.float32, share=Share(r, NUM_RANKS)) for r in range(NUM_RANKS)]
    for name in ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.down_proj", "mlp.gate_up_proj"):
        sizes = [_weight(target, name).numel() for target in (whole, *parts)]
        assert sizes[1:] == [sizes[0] // NUM_RANKS] * NUM_RANKS, name


def _weight(target, name):
    layer = target.layers[1]
    for part in name.split("."):
        layer = getattr(layer, part) if hasattr(layer, part) else getattr(layer.part, part)
    return layer.weight if hasattr(layer, "weight") else layer.part.weight
