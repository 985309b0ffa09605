"""The demo pair as the engine of fault tests: its settings, what it is asked, and what it answers undisturbed.

In batch-invariant numerics an answer is a function of the job alone. So the whole text of every job is known, and an
heir that goes on from another's tokens has to write it bit for bit.
"""

import os
import random
import uuid
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from bench.prompt_pool import PromptPool
from client.wire import Chunk, Final, Job
from core.config import EngineSettings, NoDrafterSettings, OffSettings, Settings
from core.cost import CostTable
from core.types import FinishReason, Request, Sampling
from core.whole_file import write_whole
from engine.build import build_engine
from engine.cost_cache import SavedTable, cost_key
from engine.engine import Engine
from models.folders import target_folder
from models.tokenizer import Tokenizer
from service.storage.claims import Claim, Entry
from service.takeover import to_request
from tests.faults.history import Seen, text_in, tokens_in

MODEL = "demo"
# So few slots and KV blocks that prefixes are evicted, yet room for all that runs.
ENGINE = {
    "dtype": "float32",
    "numerics": "batch_invariant",
    "max_num_seqs": 8,
    "max_num_batched_tokens": 128,
    "max_model_len": 512,
    "kv_cache_tokens": 2048,
}
# What has no say in the answers: no drafter, nothing cached, another batch.
PLAIN = {"prefix_cache": False, "max_num_seqs": 32, "max_num_batched_tokens": 256, "kv_cache_tokens": 8192}
DOMAINS = ("math", "code", "chat")
# What steps took on two cores, in seconds. Workers correct it by what theirs take.
COSTS = CostTable(
    sequences=(1, 8),
    lengths=(0, 7),
    contexts=(16, 256),
    plain_s=((0.011, 0.014), (0.012, 0.016)),
    verify_s=(((0.011, 0.014), (0.014, 0.032)), ((0.012, 0.015), (0.016, 0.036))),
    draft_s=((0.004, 0.006), (0.004, 0.007)),
    prefill_row_s=0.0003,
    catch_up_row_s=0.0003,
)


class Answer(Struct, frozen=True):
    """The whole answer to a job."""

    token_ids: tuple[int, ...]
    text: str
    reason: FinishReason


def engine_settings(folder: Path) -> dict[str, object]:
    """Return the settings of workers that find in `folder` what steps cost, so that none of them has to measure."""
    settings = EngineSettings(**ENGINE, profile=False)
    engine = build_engine(Settings(engine=settings))
    (drafter,) = (name for name, one in engine.memory.speculators.items() if one.drafter)
    key = cost_key(engine, drafter)
    write_whole(folder / f"cost-{key[:16]}.json", msgspec.json.encode(SavedTable(key, COSTS)))
    return ENGINE | {"cost_table_dir": str(folder)}


def demo_jobs(num_jobs: int, seed: int) -> list[Job]:
    """Return jobs of 40 to 120 tokens in the demo's domains: one half greedy, one half sampled with a seed."""
    rng, tokenizer = random.Random(seed), Tokenizer(target_folder(MODEL))
    questions = PromptPool(DOMAINS, seed).asked_from(0)
    jobs = []
    for index, question in zip(range(num_jobs), questions, strict=False):
        law = {"temperature": 0.0} if index % 2 else {"temperature": 1.0, "seed": rng.getrandbits(32)}
        sampling = Sampling(max_tokens=rng.randint(40, 120), **law)
        jobs.append(demo_job(tuple(tokenizer.encode(question.text)), sampling))
    return jobs


def demo_job(prompt_ids: tuple[int, ...], sampling: Sampling, **fields: object) -> Job:
    return Job(uuid.uuid4().hex, MODEL, prompt_ids, sampling, os.urandom(16), 1, **fields)


def plain_engine() -> Engine:
    """Return the plainest engine there is of the same numerics: no drafter, nothing cached."""
    settings = EngineSettings(**ENGINE | PLAIN, profile=False)
    return build_engine(Settings(engine=settings, drafter=NoDrafterSettings(), policy=OffSettings()))


def undisturbed(engine: Engine, jobs: Sequence[Job]) -> dict[str, Answer]:
    """Return the answers of an engine to which nothing happens, by job."""
    requests = {job.id: to_request(first_claim(job), "rejection") for job in jobs}
    found = run_all(engine, list(requests.values()))
    assert engine.tokenizer is not None
    return {
        job_id: Answer(tuple(tokens), engine.tokenizer.decode(tokens), reason)
        for job_id, (tokens, reason) in zip(requests, found, strict=True)
    }


def first_claim(job: Job) -> Claim:
    return Claim(Entry("0-0", job.id), job, 1, (), False, 1)


def run_all(engine: Engine, requests: Sequence[Request]) -> list[tuple[list[int], FinishReason]]:
    """Run requests to their ends, as many at once as there are slots; returns their new tokens and reasons in order."""
    tokens: dict[str, list[int]] = {one.id: [] for one in requests}
    reasons: dict[str, FinishReason] = {}
    waiting = list(reversed(requests))
    while waiting or engine.has_work:
        while waiting and engine.num_free_slots:
            engine.add(waiting.pop())
        for emission in engine.step():
            tokens[emission.request_id] += emission.token_ids
            if emission.finish_reason is not None:
                reasons[emission.request_id] = emission.finish_reason
    return [(tokens[one.id], reasons[one.id]) for one in requests]


class Known:
    """Judges contents by the answers that are known."""

    def __init__(self, answers: dict[str, Answer]) -> None:
        self._answers = answers

    def read(self, job: Job, log: Sequence[Seen]) -> list[str]:
        """Return what differs from the undisturbed answer (a `Reading`)."""
        right, found, tokens = self._answers[job.id], [], tokens_in(log)
        if tokens != list(right.token_ids):
            pairs = zip(tokens, right.token_ids, strict=False)
            same = next((at for at, (got, wanted) in enumerate(pairs) if got != wanted), None)
            where = f"{len(tokens)} of {len(right.token_ids)} tokens" if same is None else f"token {same}"
            found.append(f"the answer is not the undisturbed one: {where}")
        elif text_in(log) != right.text:
            found.append("the text is not that of the tokens")
        for final in (event for _, event in log if isinstance(event, Final)):
            if final.reason is not right.reason:
                found.append(f"the answer ended as {final.reason}, not as {right.reason}: {final.error}")
            if final.usage.completion_tokens != len(tokens):
                found.append(f"{final.usage.completion_tokens} tokens counted, {len(tokens)} seen")
        return found


class Drawn:
    """Judges plainly decoded samples, whose draws are keyed by the claim: each token tells under which it was made."""

    def __init__(self, engine: Engine, num_claims: int) -> None:
        self._engine, self._num_claims = engine, num_claims

    def read(self, job: Job, log: Sequence[Seen]) -> list[str]:
        """Return where a token was drawn under no claim, or under an earlier one than its predecessor (a `Reading`)."""
        tokens = tokens_in(log)
        epochs = range(1, self._num_claims + 1)
        asked = [_next_token(job, tokens[:at], epoch) for at in range(len(tokens)) for epoch in epochs]
        drawn = iter(run_all(self._engine, asked))
        least = 1
        for at, token in enumerate(tokens):
            makers = [epoch for epoch in epochs if next(drawn)[0] == [token] and epoch >= least]
            if not makers:
                return [f"token {at} was drawn under no claim from {least} on"]
            least = makers[0]
        return []


def _next_token(job: Job, before: Sequence[int], epoch: int) -> Request:
    """Return the request for one token after `before` under a claim."""
    streamed = (Chunk(tuple(before), ("",) * len(before)),) if before else ()
    request = to_request(Claim(Entry("0-0", job.id), job, epoch, streamed, False, 1), "rejection")
    sampling = msgspec.structs.replace(job.sampling, max_tokens=len(before) + 1)
    return msgspec.structs.replace(request, id=f"{epoch}:{len(before)}", sampling=sampling)


def accepted_and_lost(logs: Sequence[Sequence[Seen]]) -> tuple[int, int]:
    """Return how many drafts were accepted in all rounds that were streamed, and how many not."""
    chunks = [event for log in logs for _, event in log if isinstance(event, Chunk)]
    accepted = sum(chunk.num_drafts for chunk in chunks)
    return accepted, sum(chunk.verified for chunk in chunks) - accepted
