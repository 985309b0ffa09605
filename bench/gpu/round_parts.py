"""The stage that takes a speculative round apart: verify, backbone, head, verdict and all that is beside them.

A random 8B target with a random DSpark drafter of the published shape; seven drafts of every sequence are verified.
Inside a graph no part can be marked: backbone and head are told apart in rounds that are launched one by one. With
graphs, as it is served, a round's time and its parts from verify to verdict are taken again.
"""

from functools import partial
from typing import Any

import msgspec
import torch

from bench.gpu.engine_steps import SteppedEngine
from bench.gpu.marks import BACKBONE, HEAD, MarkedDSpark, MarkedStats, Marks
from bench.gpu.random_pair import NUM_DRAFTS, QWEN3_8B, TINY, random_drafter, random_target
from bench.gpu.stage import Bench, run_stage
from bench.gpu.timing import timing_of
from core.errors import SpecdError
from drafters.base import Drafter
from drafters.dspark import DSpark
from engine.engine import Engine

STAGE = "round"
CONTEXT, BATCHES = 1024, (1, 8, 32, 128)
PROFILED_STEPS = 2
UNKNOWN_IN_GRAPHS = ("backbone_us", "head_us", "head_share", "beside_share")


def measure(bench: Bench) -> None:
    """Take rounds of every batch apart."""
    batches, context = ((1, 2), 24) if bench.is_dry_run else (BATCHES, CONTEXT)
    for graphs in (False, True):
        keys = {round_key(batch, graphs=graphs): batch for batch in batches}
        if bench.wants(*keys):
            _measure_engine(bench, keys, context, graphs=graphs)


def round_key(batch: int, *, graphs: bool) -> str:
    """Return the name of a measurement."""
    return f"B{batch}/graphs" if graphs else f"B{batch}"


def _measure_engine(bench: Bench, keys: dict[str, int], context: int, *, graphs: bool) -> None:
    # Made by the first measurement that needs it; the device has no room for that of the other mode beside it.
    made: list[MarkedEngine] = []

    def take(batch: int) -> dict[str, Any]:
        if not made:
            made.append(MarkedEngine(bench, max(keys.values()) * (context + 512), graphs=graphs))
        return made[0].take_apart(batch, context)

    # The largest first: it has the bars.
    for key in reversed(keys):
        bench.take(key, partial(take, keys[key]))


class MarkedEngine:
    """An engine whose steps are marked on the device; with graphs, its drafter is not."""

    def __init__(self, bench: Bench, most_tokens: int, *, graphs: bool) -> None:
        self.device = bench.device
        target = random_target(TINY if bench.is_dry_run else QWEN3_8B, bench.device)
        self.marks = Marks(bench.device)
        network, self.graphs = random_drafter(target, bench.device), graphs
        drafter: Drafter = MarkedDSpark(network, target.network, self.marks)
        if graphs:
            drafter = DSpark("dspark", network, target.network)
        self.stepped = SteppedEngine(target, drafter, bench.device, most_tokens, graphs=graphs)

    def take_apart(self, batch: int, context: int) -> dict[str, Any]:
        """Return the time of a round without marks, and with them that of its parts."""
        engine = self.stepped.engine
        with self.stepped.batch(batch, context, NUM_DRAFTS):
            plain = engine.stats
            timing = timing_of(self.stepped.time(batch))
            engine.stats = marked = MarkedStats(self.marks)
            counts = graph_counts(engine)
            try:
                self.marks.take()
                times = self.stepped.time(batch)
                parts = {name: seconds / self.stepped.num_steps for name, seconds in self.marks.take().items()}
            finally:
                engine.stats = plain
            busy_us = self._busy_us()
        if marked.verified != NUM_DRAFTS * marked.rounds:
            raise SpecdError(f"{marked.verified} drafts were verified in {marked.rounds} rounds of {NUM_DRAFTS} each")
        counted = zip(("replayed", "eager"), graph_counts(engine), counts, strict=True)
        values = round_values(1e6 * sum(times) / len(times), parts)
        if self.graphs:
            # What is in a graph has no marks of its own: the head counts as drafting.
            values["beside_verify_and_draft_share"] = values["beside_share"]
            values = {name: value for name, value in values.items() if name not in UNKNOWN_IN_GRAPHS}
        return values | {
            "graphs": {name: after - before for name, after, before in counted},
            "sequences": batch,
            "context": context,
            "round": msgspec.to_builtins(timing),
            "round_marked_us": 1e6 * sum(times) / len(times),
            "busy_us": busy_us,
        }

    def _busy_us(self) -> float | None:
        """Return for how long a round keeps the device busy, all its kernels added up; None on a CPU."""
        if self.device.type != "cuda":
            return None
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
            for _ in range(PROFILED_STEPS):
                self.stepped.engine.step()
            torch.cuda.synchronize(self.device)
        return float(sum(event.self_device_time_total for event in seen.key_averages())) / PROFILED_STEPS


def graph_counts(engine: Engine) -> tuple[int, int]:
    """Return how many forwards and proposals were replayed from graphs, and how many that have graphs were not."""
    counts = [(one.graphs.num_replayed, one.graphs.num_eager) for one in (engine.graphed,) if one]
    graphed = [each.graphed for each in engine.memory.speculators.values() if each.graphed]
    counts += [(one.graphs.num_replayed, one.graphs.num_eager) for one in graphed]
    return sum(replayed for replayed, _ in counts), sum(eager for _, eager in counts)


def round_values(round_us: float, parts_s: dict[str, float]) -> dict[str, Any]:
    """Return parts in microseconds, and the shares of a round that have bars; both are means of the same rounds.

    The drafter's base logits are its backbone's; `draft` holds backbone, base logits and head. Everything beside verify
    and backbone, the host included, is what is left of the round.
    """
    parts = {name: 1e6 * seconds for name, seconds in parts_s.items()}
    head, draft = parts.get(HEAD, 0.0), parts.get("draft", 0.0)
    backbone = max(0.0, draft - head)
    marked = sum(value for name, value in parts.items() if name not in (BACKBONE, HEAD))
    return {
        "parts_us": parts,
        "backbone_us": backbone,
        "head_us": head,
        "verify_us": parts.get("verify", 0.0),
        "head_share": head / round_us,
        "beside_share": 1 - (parts.get("verify", 0.0) + backbone) / round_us,
        "unmarked_us": max(0.0, round_us - marked),
    }


if __name__ == "__main__":
    raise SystemExit(run_stage(STAGE, measure))
