"""How often speculation changes a greedy text in `fast` numerics, and how near a tie the target was where it did.

In `batch_invariant` numerics the answer is never, bit for bit (tests/engine/test_identity.py). In `fast` a batch's
shape changes the order of sums, so two logits that are almost equal may change places. Run with

    python -m bench.near_ties
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import torch
from msgspec import Struct
from torch import Tensor
from torch.nn import functional as F

from bench.machine import describe_machine
from core.config import DSparkSettings, NgramSettings
from core.planning import Policy
from core.types import Request, Sampling
from drafters.base import Drafter
from engine.build import make_drafter, pick_dtype
from engine.engine import Engine
from engine.shape import EngineShape
from models.folders import target_folder
from models.load_target import load_target
from models.target import Target
from models.tokenizer import Tokenizer
from policies.confidence import Confidence
from policies.fixed import Fixed, Off

NUM_TOKENS = 256
CONCURRENCY = (1, 16)
POLICIES: dict[str, Callable[[], Policy]] = {
    "fixed 1": lambda: Fixed(1),
    "fixed 7": lambda: Fixed(7),
    "confidence": lambda: Confidence(0.3),
}
# Of the two best logits: the most that may lie between them where two texts part.
EPSILON = {"float32": 1e-3, "bfloat16": 0.25}


def generate(
    target: Target, drafter: Drafter | None, policy: Callable[[], Policy], prompts: list[tuple[int, ...]], together: int
) -> tuple[list[list[int]], Engine]:
    """Return the greedy texts of prompts, `together` of them at a time, and the engine that wrote them."""
    drafters = {drafter.spec.name: drafter} if drafter else {}
    shape = EngineShape(max_num_seqs=together, kv_cache_tokens=16384)
    engine = Engine(target, drafters, {"only": policy}, shape, ())
    sampling = Sampling(max_tokens=NUM_TOKENS, temperature=0.0, ignore_eos=True)
    texts: dict[str, list[int]] = {str(i): [] for i in range(len(prompts))}
    for i, prompt in enumerate(prompts):
        engine.add(Request(str(i), prompt, sampling, i))
    while engine.has_work:
        for emission in engine.step():
            texts[emission.request_id].extend(emission.token_ids)
    return list(texts.values()), engine


@torch.inference_mode()
def margin_at(target: Target, ids: list[int]) -> float:
    """Return how far apart the target's two best logits are after `ids`, computed densely."""

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # noqa: ARG001
        q, k, v = (x.transpose(-3, -2) for x in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return mixed.transpose(-3, -2)

    hidden, _ = target(torch.tensor(ids), torch.arange(len(ids)), attend)
    best = target.logits(hidden[-1:])[0].topk(2).values
    return float(best[0] - best[1])


class Cell(Struct, frozen=True):
    """One drafter, policy and concurrency: the margins at which its texts first left those of plain decoding."""

    drafter: str
    policy: str
    concurrency: int
    margins: list[float]
    accepted: int
    rejected: int


class Run(Struct, frozen=True):
    """All cells in one dtype."""

    dtype: str
    texts: int
    divergences: int
    largest_margin: float
    epsilon: float
    cells: list[Cell]


def measure(dtype: str, num_prompts: int) -> Run:
    """Compare every cell's texts with plain decoding, one request at a time."""
    folder = target_folder("demo")
    target, tokenizer = load_target(folder, pick_dtype(dtype)), Tokenizer(folder)
    entries = json.loads((Path(__file__).parent / "prompts" / "demo.json").read_text(encoding="utf-8")).values()
    texts = [text for entry in entries for text in entry["prompts"][:num_prompts]]
    prompts = [tuple(tokenizer.encode(text)) for text in texts]
    plain, _ = generate(target, None, Off, prompts, 1)
    cells = []
    for name, settings in (("dspark", DSparkSettings()), ("ngram", NgramSettings())):
        for policy, make in POLICIES.items():
            for together in CONCURRENCY:
                got, engine = generate(target, make_drafter(settings, target), make, prompts, together)
                margins = []
                for prompt, ours, theirs in zip(prompts, got, plain, strict=True):
                    if ours != theirs:
                        place = next(i for i, pair in enumerate(zip(ours, theirs, strict=True)) if len(set(pair)) > 1)
                        margins.append(margin_at(target, [*prompt, *ours[:place]]))
                stats = engine.stats
                cells.append(
                    Cell(name, policy, together, sorted(margins), stats.accepted, stats.verified - stats.accepted)
                )
                print(f"{name:8} {policy:12} {together:3} at once: {len(margins)} of {len(prompts)} texts diverge")
    found = [margin for cell in cells for margin in cell.margins]
    return Run(dtype, len(prompts) * len(cells), len(found), max(found, default=0.0), EPSILON[dtype], cells)


def main() -> int:
    """Measure, write the result, and fail if a divergence was no near tie."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtypes", nargs="+", choices=tuple(EPSILON), default=tuple(EPSILON))
    parser.add_argument("--prompts", type=int, default=8, help="per domain")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "near_ties.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = [measure(dtype, arguments.prompts) for dtype in arguments.dtypes]
    report = {"machine": describe_machine(), "runs": [msgspec.to_builtins(run) for run in runs]}
    arguments.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for run in runs:
        print(
            f"{run.dtype}: {run.divergences} first divergences in {run.texts} texts of {NUM_TOKENS} tokens, "
            f"largest margin {run.largest_margin:.2g}, allowed {run.epsilon}"
        )
    return int(any(run.largest_margin > run.epsilon for run in runs))


if __name__ == "__main__":
    raise SystemExit(main())
