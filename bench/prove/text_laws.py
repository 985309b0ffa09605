"""The law of whole texts of a tiny target, worked out apart from the engine: dense attention, float64, token by token.

Nothing here comes from kernels/: logits are processed again from the words of core.types.Sampling, so that the engine
and this page can only agree by both being right.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from core.types import Sampling
from models.qwen3 import Qwen3

F64 = NDArray[np.float64]
Text = tuple[int, ...]


class TextLaws:
    """The chances of tokens 2..length + 1 after a prompt, under any sampling.

    The first token is summed out: it is sampled at the end of prefill, without drafts.
    """

    def __init__(self, target: Qwen3, prompt: Text, length: int) -> None:
        self.prompt, self.length, self.vocab = prompt, length, target.config.vocab_size
        prefixes = [each for n in range(length + 1) for each in itertools.product(range(self.vocab), repeat=n)]
        self._logits = {prefix: last_logits(target, (*prompt, *prefix)) for prefix in prefixes}

    def law(self, sampling: Sampling) -> F64:
        """Return the probability of each text, f64 [V ** length], in the order of `codes`."""
        law = np.ones(1)
        for num_before in range(self.length + 1):
            before = itertools.product(range(self.vocab), repeat=num_before)
            rows = [next_law(self._logits[prefix], sampling, self.prompt, prefix) for prefix in before]
            law = (law[:, None] * np.array(rows)).ravel()
        return law.reshape(self.vocab, -1).sum(0)

    def codes(self, texts: Sequence[Text]) -> NDArray[np.int64]:
        """Return the place of each text in a law, i64 [n]; tokens past the ones looked at do not matter."""
        weights = self.vocab ** np.arange(self.length)[::-1]
        return np.array([text[1 : self.length + 1] for text in texts], dtype=np.int64) @ weights


@torch.inference_mode()
def last_logits(target: Qwen3, ids: Text) -> F64:
    """Return the target's raw logits f64 [V] after `ids`, by one dense forward."""
    hidden, _ = target(torch.tensor(ids), torch.arange(len(ids)), _dense_causal)
    return np.asarray(target.logits(hidden[-1:])[0].double().numpy())


def next_law(logits: F64, sampling: Sampling, prompt: Text, output: Text) -> F64:
    """Return the law of the next token, f64 [V]: what a request asks for, applied one after the other."""
    z, vocab = logits.copy(), len(logits)
    for token, bias in sampling.logit_bias:
        z[token] += bias
    counts = np.bincount(np.array(output, dtype=np.int64), minlength=vocab)
    seen = (counts > 0) | np.isin(np.arange(vocab), prompt)
    repetition = sampling.repetition_penalty
    z = np.where(seen, np.where(z > 0, z / repetition, z * repetition), z)
    z -= sampling.frequency_penalty * counts + sampling.presence_penalty * (counts > 0)
    law = np.exp((z - z.max()) / sampling.temperature)
    order = np.argsort(-law, kind="stable")
    if sampling.top_k:
        law[order[sampling.top_k :]] = 0.0
    before = np.concatenate(([0.0], law[order].cumsum()[:-1])) / law.sum()
    law[order[before >= sampling.top_p]] = 0.0
    law[law < sampling.min_p * law.max()] = 0.0
    return np.asarray(law / law.sum())


def _dense_causal(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # noqa: ARG001
    q, k, v = (each.transpose(-3, -2) for each in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(-3, -2)
