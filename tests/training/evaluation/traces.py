"""Answers and rounds written by hand, whose every number can be worked out on paper."""

import numpy as np

from core.types import FinishReason
from training.evaluation.answering import Answer, Rounds
from training.evaluation.counted_rounds import CountedRounds

G = 3


def answer(rounds, *, tokens=None, conversation=0, turn=0, prompt_len=10, num_cached=0, asked=G, text=""):
    """An answer of one prefill token and of rounds (accepted, emitted) with G drafts verified in each."""
    accepted, emitted = np.array(rounds, dtype=np.int32).reshape(-1, 2).T
    size = np.full(len(accepted), G, dtype=np.int32)
    tokens = tuple(range(1 + int(emitted.sum()))) if tokens is None else tuple(tokens)
    start = prompt_len + len(tokens) - int(emitted.sum())
    return Answer(
        conversation,
        turn,
        prompt_len,
        num_cached,
        tokens,
        text,
        FinishReason.STOP,
        Rounds(
            start + np.cumsum(emitted, dtype=np.int32) - emitted,
            np.broadcast_to(np.array(asked, dtype=np.int32), size.shape),
            size,
            size,
            accepted,
            emitted,
            np.zeros((len(accepted), G), dtype=np.float32),
        ),
    )


def counted(prompt, accepted, evidence=None, judged=None):
    """Rounds that count, a bonus token in each; all G drafts are judged unless said otherwise."""
    prompt, accepted = np.array(prompt, dtype=np.int32), np.array(accepted, dtype=np.int32)
    judged = np.full_like(accepted, G) if judged is None else np.array(judged, dtype=np.int32)
    evidence = np.zeros((len(accepted), G)) if evidence is None else evidence
    evidence = np.array(evidence, dtype=np.float32)
    return CountedRounds(prompt, prompt * 0 + 20, judged, judged, accepted, judged, accepted + 1, evidence)
