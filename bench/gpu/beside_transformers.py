"""The stage that puts specd beside Hugging Face transformers: the same random weights, greedy, batches of 1 and 16.

Both answer whole batches of one length, by turns; specd decodes plainly. Static batches are all that `generate` can do.
"""

import secrets
import time
from functools import partial
from typing import Any

import msgspec
import torch
from transformers import AutoModelForCausalLM
from transformers import Qwen3Config as TheirConfig

from bench.gpu.engine_steps import BLOCK_SIZE, PREFILL_ROWS
from bench.gpu.random_pair import QWEN3_4B, TINY, dtype_on, random_network, random_target
from bench.gpu.stage import Bench, run_stage
from bench.gpu.timing import timing_of
from core.errors import SpecdError
from core.types import Request, Sampling
from engine.engine import Engine
from engine.shape import EngineShape
from models.checkpoint import split_fused
from models.qwen3 import Qwen3Config
from policies.fixed import Off

STAGE = "transformers"
BATCHES = (1, 16)
PROMPT_LEN, ANSWER_LEN, ROUNDS = 512, 128, 3
# Log-probabilities of the same law, summed in another order; in bfloat16 logits have eight bits.
TOLERANCES = {torch.float32: 2e-3, torch.bfloat16: 0.25}
CHECKED_TOKENS = 32


def measure(bench: Bench) -> None:
    """Check that both compute the same law, then time both."""
    batches = (1, 2) if bench.is_dry_run else BATCHES
    keys = [f"B{batch}" for batch in batches]
    if not bench.wants("law", *keys):
        return
    made: list[Pair] = []

    def pair() -> Pair:
        if not made:
            made.append(Pair(TINY if bench.is_dry_run else QWEN3_4B, bench))
        return made[0]

    bench.take("law", lambda: pair().compare_laws())
    if bench.results.done("law") is None:
        bench.note_all(keys, "the two do not compute the same law, or could not be compared")
        return
    for key, batch in zip(keys, batches, strict=True):
        bench.take(key, partial(pair().compare_speeds, batch))


class Pair:
    """One set of random weights in both libraries."""

    def __init__(self, config: Qwen3Config, bench: Bench) -> None:
        self.device, is_dry_run = bench.device, bench.is_dry_run
        self.model = their_model(config, bench.device)
        target = random_target(config, bench.device).network
        self.prompt_len, self.answer_len = (8, 4) if is_dry_run else (PROMPT_LEN, ANSWER_LEN)
        self.rounds, self.dtype = 2 if is_dry_run else ROUNDS, target.dtype
        room = max(BATCHES) * (self.prompt_len + self.answer_len + BLOCK_SIZE)
        shape = EngineShape(
            max_num_seqs=max(BATCHES),
            max_num_batched_tokens=PREFILL_ROWS,
            kv_cache_tokens=room,
            block_size=BLOCK_SIZE,
            prefix_cache=False,
        )
        self.engine = Engine(target, {"none": None}, {Off.name: Off}, shape, ())
        self._generator = torch.Generator().manual_seed(0)

    @torch.inference_mode()
    def compare_laws(self) -> dict[str, Any]:
        """Return by how much log-probabilities differ along a greedy answer; raises SpecdError if it is too much."""
        prompt = self._prompts(1)
        sampling = Sampling(
            max_tokens=min(CHECKED_TOKENS, self.answer_len), temperature=0.0, ignore_eos=True, logprobs=5
        )
        told = self.engine.generate([tuple(prompt[0].tolist())], sampling)[0]
        ids = torch.cat((prompt[0], torch.tensor(told.token_ids)))[None].to(self.device)
        theirs = self.model(ids).logits[0, self.prompt_len - 1 : -1].float().log_softmax(-1).cpu()
        ours = [one for emission in told.rounds for one in emission.logprobs or ()]
        difference = max(
            float((theirs[place, list(one.top_ids)] - torch.tensor(one.top_logprobs)).abs().max())
            for place, one in enumerate(ours)
        )
        if difference > TOLERANCES[self.dtype]:
            raise SpecdError(
                f"log-probabilities differ by {difference:.4f}, {TOLERANCES[self.dtype]} is allowed in {self.dtype}"
            )
        return {"largest_difference": difference, "tokens": len(ours), "dtype": str(self.dtype)}

    def compare_speeds(self, batch: int) -> dict[str, Any]:
        """Return the tokens per second of both, answering the same batches by turns; the first turn warms up."""
        seconds: dict[str, list[float]] = {"transformers": [], "specd": []}
        ways = {"transformers": self._theirs, "specd": self._ours}
        for turn in range(self.rounds + 1):
            prompts = self._prompts(batch)
            for name, answer in ways.items():
                started = time.perf_counter()
                answer(prompts)
                if turn:
                    seconds[name].append(time.perf_counter() - started)
        timings = {name: timing_of(taken) for name, taken in seconds.items()}
        num_tokens = batch * self.answer_len
        return {f"{name}_tokens_per_s": 1e6 * num_tokens / timing.median_us for name, timing in timings.items()} | {
            "ratio": timings["transformers"].median_us / timings["specd"].median_us,
            "seconds": seconds,
            "batch": batch,
            "prompt_len": self.prompt_len,
            "answer_len": self.answer_len,
        }

    def _prompts(self, batch: int) -> torch.Tensor:
        vocab_size = self.engine.target.shape.vocab_size
        return torch.randint(vocab_size, (batch, self.prompt_len), generator=self._generator)

    @torch.inference_mode()
    def _theirs(self, prompts: torch.Tensor) -> None:
        ids = prompts.to(self.device)
        output = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=self.answer_len,
            min_new_tokens=self.answer_len,
            do_sample=False,
            pad_token_id=0,
        )
        # Their answer is there when the host has it, as ours is.
        check_len(output[:, self.prompt_len :].tolist(), self.answer_len)

    def _ours(self, prompts: torch.Tensor) -> None:
        sampling = Sampling(max_tokens=self.answer_len, temperature=0.0, ignore_eos=True)
        for index, ids in enumerate(prompts.tolist()):
            self.engine.add(Request(str(index), tuple(ids), sampling, secrets.randbits(64)))
        answers: dict[str, list[int]] = {str(index): [] for index in range(len(prompts))}
        while self.engine.has_work:
            for emission in self.engine.step():
                answers[emission.request_id].extend(emission.token_ids)
        check_len(list(answers.values()), self.answer_len)


def check_len(answers: list[list[int]], length: int) -> None:
    """Raise SpecdError unless every answer has the length that speeds are counted by."""
    if any(len(answer) != length for answer in answers):
        raise SpecdError(f"answers of {length} tokens were asked for, got {[len(answer) for answer in answers]}")


def their_model(config: Qwen3Config, device: torch.device) -> Any:
    """Return transformers' network of a config with the weights that `random_target` draws for it."""
    fields = msgspec.structs.asdict(config)
    theta = fields.pop("rope_theta")
    told: Any = TheirConfig(**fields, rope_parameters={"rope_type": "default", "rope_theta": theta})
    # Their own functions have no types.
    make: Any = AutoModelForCausalLM.from_config
    with device:
        model = make(told, dtype=dtype_on(device), attn_implementation="sdpa")
    tensors = split_fused(random_network(config, device))
    named = {name if name.startswith("lm_head") else f"model.{name}": tensor for name, tensor in tensors.items()}
    if config.tie_word_embeddings:
        named["lm_head.weight"] = named["model.embed_tokens.weight"]
    model.load_state_dict(named)
    model.generation_config.eos_token_id = None
    return model.eval()


if __name__ == "__main__":
    raise SystemExit(run_stage(STAGE, measure))
