"""Engines and requests on tiny random models (bench/prove/tiny.py)."""

from bench.prove.tiny import tiny_config, tiny_dflash, tiny_dspark, tiny_eagle3, tiny_target
from core.planning import Policy
from core.types import Request, Sampling, Speculation
from drafters.base import Drafter
from engine.engine import Engine
from engine.shape import EngineShape
from models.target import Target
from models.tokenizer import Tokenizer

__all__ = [
    "SHAPE",
    "make_engine",
    "request",
    "run",
    "tiny_config",
    "tiny_dflash",
    "tiny_dspark",
    "tiny_eagle3",
    "tiny_target",
]

# Small blocks and chunks, so that every text crosses many of both.
SHAPE = EngineShape(max_num_seqs=16, max_num_batched_tokens=32, kv_cache_tokens=4096, block_size=4)


def make_engine(
    target: Target,
    drafter: Drafter | None,
    policy: Policy,
    shape: EngineShape = SHAPE,
    eos: tuple[int, ...] = (),
    tokenizer: Tokenizer | None = None,
) -> Engine:
    """An engine with one drafter or none, and one policy."""
    drafters = {drafter.spec.name: drafter} if drafter else {}
    return Engine(target, drafters, {policy.name: lambda: policy}, shape, eos, tokenizer)


def request(prompt: tuple[int, ...], nonce: int = 1, name: str = "r", **sampling: object) -> Request:
    cap = sampling.pop("max_drafts", None)
    seed = sampling.get("seed")
    return Request(name, prompt, Sampling(**sampling), nonce, coupled_key=seed, speculation=Speculation(cap))


def run(engine: Engine, requests: list[Request]) -> dict[str, list[int]]:
    """Run requests through an engine to their ends and return their tokens."""
    for each in requests:
        engine.add(each)
    out: dict[str, list[int]] = {each.id: [] for each in requests}
    while engine.has_work:
        for emission in engine.step():
            out[emission.request_id].extend(emission.token_ids)
    return out
