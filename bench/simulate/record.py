"""Record how a drafter's drafts fare, at every anchor: what the simulator plays instead of a model.

    python -m bench.simulate.record --requests 24 --output recording.safetensors

Requests run with a seed, under the `coupled` verifier: their texts then depend on neither drafter nor policy
(docs/exactness.md). A full block is drafted after every single token and none of it is verified; afterwards the text
itself tells how much of each block would have been accepted. So what is recorded holds for any policy.
"""

import argparse
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from safetensors.numpy import save_file

from bench.logs import show_warnings_only
from bench.prompt_pool import PromptPool, Question
from bench.simulate.drafts import Texts
from core.config import EngineSettings, Settings
from core.errors import SpecdError
from core.planning import Calibration, FixedLength, Plan, StepOutcome, StepView
from core.tensors import Commit, Draft, DraftAsk
from core.types import Request, Sampling
from drafters.base import Drafter
from engine.build import build_engine
from engine.engine import Engine
from policies.base import draft_all

DOMAINS = ("math", "code", "chat")


class DraftInVain:
    """Drafts all it may at every token, and has none of it verified."""

    name = "draft_in_vain"

    def plan(self, view: StepView) -> Plan:
        """Draft everything, admit nothing."""
        return draft_all(view, FixedLength(0))

    def observe(self, outcome: StepOutcome) -> None:
        """Learn nothing."""


class Eavesdropper:
    """A drafter in whose place it stands, with an ear to what it proposes: by slot, anchors, drafts and evidence."""

    def __init__(self, drafter: Drafter) -> None:
        self.spec, self._drafter = drafter.spec, drafter
        self.heard: dict[int, list[tuple[int, NDArray[np.int64], NDArray[np.float32]]]] = {}

    def open(self, slot: int, tokens: Sequence[int], num_cached: int) -> None:
        """Begin a sequence."""
        self.heard[slot] = []
        self._drafter.open(slot, tokens, num_cached)

    def extend(self, commit: Commit) -> None:
        """Take rows in."""
        self._drafter.extend(commit)

    def propose(self, ask: DraftAsk) -> Draft:
        """Draft, and note it."""
        draft = self._drafter.propose(ask)
        slots, positions, lengths = (each.tolist() for each in (ask.slots, ask.positions, draft.lengths))
        for b, (slot, position, length) in enumerate(zip(slots, positions, lengths, strict=True)):
            self.heard[slot].append((position, draft.tokens[b, :length].numpy(), draft.evidence[b].float().numpy()))
        return draft

    def release(self, slot: int) -> None:
        """Forget a sequence; what was heard of it stays until the slot is taken anew."""
        self._drafter.release(slot)


def request_of(number: int, question: Question, engine: Engine, temperature: float) -> Request:
    """Return the seeded request of a question; the same number gives the same text wherever it runs."""
    assert engine.tokenizer is not None
    prompt = tuple(engine.tokenizer.encode(question.text))
    sampling = Sampling(max_tokens=question.max_tokens, temperature=temperature, seed=number)
    return Request(str(number), prompt, sampling, nonce=number, coupled_key=number, cache_salt=str(number))


def record(engine: Engine, drafter: str, questions: Sequence[Question], temperature: float) -> Texts:
    """Return what one of an idle engine's drafters would have accepted of its drafts in the answers to questions."""
    speculator = engine.memory.speculators[drafter]
    assert speculator.drafter is not None
    own, ear = speculator.drafter, Eavesdropper(speculator.drafter)
    speculator.drafter = ear
    rows = []
    try:
        with engine.scripted(DraftInVain(), drafter):
            for number, question in enumerate(questions):
                rows.append(_record_one(engine, ear, request_of(number, question, engine, temperature)))
    finally:
        speculator.drafter = own
    return _joined(rows, questions, own.spec.calibration, own.spec.max_drafts)


Row = tuple[NDArray[np.int32], NDArray[np.float32], int]


def _record_one(engine: Engine, ear: Eavesdropper, request: Request) -> Row:
    """Return accepted [T], evidence [T, G] and the prompt's length, of one request that runs alone."""
    engine.add(request)
    tokens, slot = list(request.prompt_ids), -1
    while engine.has_work:
        for emission in engine.step():
            tokens.extend(emission.token_ids)
        slot = engine.scheduler.running[0].slot if engine.scheduler.running else slot
    num_prompt, width = len(request.prompt_ids), ear.spec.max_drafts
    accepted = np.zeros(len(tokens) - num_prompt, dtype=np.int32)
    evidence = np.zeros((len(accepted), width), dtype=np.float32)
    for position, drafts, shown in ear.heard.get(slot, ()):
        place = position + 1 - num_prompt
        if not 0 <= place < len(accepted):
            continue
        text = tokens[position + 1 : position + 1 + len(drafts)]
        agrees = [draft == token for draft, token in zip(drafts.tolist(), text)]
        accepted[place] = agrees.index(False) if False in agrees else len(agrees)
        evidence[place] = shown
    return accepted, evidence, num_prompt


def _joined(rows: list[Row], questions: Sequence[Question], calibration: Calibration | None, width: int) -> Texts:
    domains = [question.domain for question in questions]
    longest = max(len(accepted) for accepted, _, _ in rows)
    accepted = np.zeros((len(rows), longest), dtype=np.int32)
    evidence = np.zeros((len(rows), longest, width), dtype=np.float32)
    for row, (counts, shown, _) in enumerate(rows):
        accepted[row, : len(counts)], evidence[row, : len(counts)] = counts, shown
    return Texts(
        accepted=accepted,
        evidence=evidence,
        lengths=np.array([len(counts) for counts, _, _ in rows], dtype=np.int32),
        prompt_len=np.array([num_prompt for _, _, num_prompt in rows], dtype=np.int32),
        domains={name: np.flatnonzero(np.array(domains) == name) for name in dict.fromkeys(domains)},
        calibration=calibration,
        asked=np.array([question.max_tokens for question in questions], dtype=np.int32),
    )


def write_recording(path: Path, texts: Texts) -> None:
    """Write what `read_recorded` reads."""
    domain = np.zeros(len(texts.accepted), dtype=np.int32)
    for number, index in enumerate(texts.domains.values()):
        domain[index] = number
    known = texts.calibration or Calibration((1.0,) * texts.width, (0.0,) * texts.width)
    arrays: dict[str, NDArray[Any]] = {
        "accepted": texts.accepted,
        "evidence": texts.evidence,
        "lengths": texts.lengths,
        "prompt_len": texts.prompt_len,
        "domain": domain,
        "calibration": np.array((known.slope, known.intercept), dtype=np.float64),
    }
    if texts.asked is not None:
        arrays["asked"] = texts.asked
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(arrays, path, metadata={"domains": ",".join(texts.domains)})


def main() -> None:
    """Read the command line, record and write."""
    parser = argparse.ArgumentParser(description="Record how the demo's drafts fare at every anchor.")
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--domains", nargs="+", default=list(DOMAINS))
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--output", type=Path, default=Path("bench-results") / "recording.safetensors")
    arguments = parser.parse_args()
    show_warnings_only()
    torch.set_num_threads(1)
    engine = build_engine(Settings(engine=EngineSettings(profile=False, max_num_seqs=1)))
    questions = list(islice(PromptPool(arguments.domains, 0).asked_from(0), arguments.requests))
    texts = record(engine, "dspark", questions, arguments.temperature)
    write_recording(arguments.output, texts)
    Console(highlight=False).print(
        f"{len(questions)} requests, {int(texts.lengths.sum())} anchors, "
        f"{1 + accepted_mean(texts):.2f} tokens per full block; wrote {arguments.output}"
    )


def accepted_mean(texts: Texts) -> float:
    """Return how many drafts of a whole block are accepted on average, over all anchors."""
    inside = np.arange(texts.accepted.shape[1]) < texts.lengths[:, None]
    return float(texts.accepted[inside].mean())


if __name__ == "__main__":
    try:
        main()
    except SpecdError as error:
        raise SystemExit(f"bench: {error}") from error
