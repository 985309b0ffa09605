"""Hugging Face transformers on a target's own weights: plain generate, prompt lookup, an assistant model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.loops import LoopWatch
from core.errors import SpecdError
from core.types import Sampling
from engine.engine import Engine

try:
    from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList
    from transformers.utils import logging as transformers_logging
except ImportError as error:
    raise ImportError("this needs transformers; install specd with its extra: pip install 'specd[bench]'") from error

# Log-probabilities of two float32 forwards that sum in different orders agree to this; bfloat16 would not.
LOGPROB_TOLERANCE = 2e-3
CHECKED_TOKENS = 48


class Baseline:
    """One way of calling generate(); options are generate's own, such as prompt_lookup_num_tokens."""

    def __init__(self, model: Any, eos_ids: Sequence[int], options: dict[str, Any]) -> None:
        self.model, self.eos_ids, self.options = model, list(eos_ids), options

    @torch.inference_mode()
    def answer(self, prompts: Sequence[Sequence[int]], max_tokens: int, temperature: float) -> list[list[int]]:
        """Answer a batch, padded on the left; returns the new tokens of each prompt, its end token included."""
        longest = max(map(len, prompts))
        padded = torch.tensor([[self.eos_ids[0]] * (longest - len(ids)) + list(ids) for ids in prompts])
        mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts])
        law: dict[str, Any] = {"do_sample": False}
        if temperature > 0:
            law = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        stop = StoppingCriteriaList([EndAtLoop(len(prompts), longest)] if temperature == 0 else [])
        output = self.model.generate(
            padded,
            attention_mask=mask,
            max_new_tokens=max_tokens,
            eos_token_id=self.eos_ids,
            pad_token_id=self.eos_ids[0],
            stopping_criteria=stop,
            **law,
            **self.options,
        )
        return [until_end(row, self.eos_ids) for row in output[:, longest:].tolist()]


class EndAtLoop(StoppingCriteria):
    """Ends a greedy answer where it begins to repeat itself, as specd's side does."""

    def __init__(self, num_rows: int, prompt_len: int) -> None:
        self._watches = [LoopWatch() for _ in range(num_rows)]
        self._done, self._seen = [False] * num_rows, prompt_len

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:  # noqa: ARG002, theirs
        """Return which rows are done, bool [rows]."""
        for row, fresh in enumerate(input_ids[:, self._seen :].tolist()):
            if not self._done[row]:
                self._done[row] = self._watches[row].add(fresh) is not None
        self._seen = input_ids.shape[1]
        return torch.tensor(self._done, device=input_ids.device)


def load_model(folder: Path, dtype: torch.dtype) -> Any:
    """Load a causal LM of transformers; it says nothing but errors."""
    # Their own functions have no types.
    talk: Any = transformers_logging
    talk.set_verbosity_error()
    talk.disable_progress_bar()
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    return model.eval()


def until_end(tokens: Sequence[int], eos_ids: Sequence[int]) -> list[int]:
    """Return tokens up to the first end token, that one included."""
    for place, token in enumerate(tokens):
        if token in eos_ids:
            return list(tokens[: place + 1])
    return list(tokens)


@torch.inference_mode()
def largest_difference(model: Any, engine: Engine, prompt: tuple[int, ...]) -> float:
    """Return by how much the log-probabilities of model and engine differ along the engine's greedy answer.

    Both must compute in float32. Raises SpecdError above the tolerance: they would not be the same model.
    """
    told = engine.generate([prompt], Sampling(max_tokens=CHECKED_TOKENS, temperature=0.0, logprobs=20))[0]
    logits = model(torch.tensor([[*prompt, *told.token_ids]])).logits[0, len(prompt) - 1 : -1]
    theirs = logits.float().log_softmax(dim=-1)
    ours = [one for emission in told.rounds for one in emission.logprobs or ()]
    if len(ours) != len(told.token_ids):
        raise SpecdError(f"the engine told {len(ours)} log-probabilities of {len(told.token_ids)} tokens")
    difference = max(
        float((theirs[place, list(one.top_ids)] - torch.tensor(one.top_logprobs)).abs().max())
        for place, one in enumerate(ours)
    )
    if difference > LOGPROB_TOLERANCE:
        raise SpecdError(
            f"transformers and specd compute different laws: log-probabilities differ by {difference:.4f}, "
            f"{LOGPROB_TOLERANCE} is allowed; a comparison of speeds would mean nothing"
        )
    return difference
