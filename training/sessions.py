"""Sessions that the target has answered turn after turn: what a drafter meets as soon as a conversation goes on.

Every answer is learnt, what stands between them is read. The tokens are those that serving would render.
"""

import itertools
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from core.errors import DataError
from models.checkpoint import write_tensors
from models.qwen3 import Qwen3
from training.chatml import END, render_prompt, token_id
from training.generate import Prompt, generate
from training.onpolicy import MAX_NEW_TOKENS, TEMPERATURES
from training.packed_rows import MaskedText
from training.tasks.sessions import NUM_TASKS, sessions
from training.tasks.task import Task

# Tokens of all answers of a session, about.
SESSION_TOKENS = 200


class Session:
    """One session as it grows; mutable."""

    def __init__(self, tokenizer: Tokenizer, tasks: Sequence[Task], temperature: float) -> None:
        self._tokenizer, self._tasks, self._temperature = tokenizer, list(tasks), temperature
        self._ids: list[int] = []
        self._answers: list[tuple[int, int]] = []

    def ask(self, max_len: int) -> Prompt | None:
        """Return the next question with all before it; None at the end, or where an answer would not fit."""
        if not self._tasks:
            return None
        task = self._tasks.pop(0)
        # The line end after an answer is the template's; the target did not write it.
        text = ("\n" if self._ids else "") + render_prompt(task.messages)
        ids, room = self._ids + self._tokenizer.encode(text).ids, MAX_NEW_TOKENS[task.domain]
        if len(ids) + room > max_len:
            self._tasks.clear()
            return None
        self._ids = ids
        return Prompt(ids, room, self._temperature)

    def take(self, answer: list[int], end_id: int) -> None:
        """Go on after an answer; one that ran out of tokens is the last."""
        self._answers.append((len(self._ids), len(self._ids) + len(answer)))
        self._ids = self._ids + answer
        if answer[-1] != end_id:
            self._tasks.clear()

    @property
    def is_answered(self) -> bool:
        """Tell whether there is an answer yet."""
        return bool(self._answers)

    def text(self) -> MaskedText:
        """Return the session with its answers marked, up to the end of the last."""
        end = self._answers[-1][1]
        mask = np.zeros(end, bool)
        for start, stop in self._answers:
            mask[start:stop] = True
        return MaskedText(np.array(self._ids[:end], np.int32), mask)


def write_sessions(
    network: Qwen3, tokenizer: Tokenizer, part: str, seed: int, num_new_tokens: int, max_len: int, at_once: int
) -> list[MaskedText]:
    """Let a frozen target write at least so many tokens of answers, in sessions of at most `max_len` tokens.

    at_once   most sessions that go on side by side

    Raises DataError where `max_len` is too short for any.
    """
    rng, source = random.Random(seed), sessions(seed, part)  # noqa: S311, a seed must give the same text
    end_id, texts, made = token_id(tokenizer, END), list[MaskedText](), 0
    for batch in itertools.count():
        if made >= num_new_tokens:
            break
        # A turn takes as many steps as its longest answer, for few sessions or many: no more batches than need be.
        num_sessions = min(at_once, 1 + (num_new_tokens - made) // SESSION_TOKENS)
        opened = [Session(tokenizer, next(source), rng.choice(TEMPERATURES)) for _ in range(num_sessions)]
        answer_all(network, opened, end_id, seed + NUM_TASKS[1] * batch, max_len)
        answered = [session.text() for session in opened if session.is_answered]
        if not answered:
            raise DataError(f"no session fits into {max_len} tokens; raise data.row_len, or set data.session_share = 0")
        texts += answered
        made += sum(int(text.mask.sum()) for text in answered)
    return texts


def answer_all(network: Qwen3, opened: Sequence[Session], end_id: int, seed: int, max_len: int) -> None:
    """Answer turn after turn of all sessions side by side."""
    for turn in range(NUM_TASKS[1]):
        asked = [(session, prompt) for session in opened if (prompt := session.ask(max_len)) is not None]
        if not asked:
            break
        answers = generate(network, [prompt for _, prompt in asked], end_id, seed + turn)
        for (session, _), answer in zip(asked, answers, strict=True):
            session.take(answer, end_id)


def save_sessions(path: Path, texts: Sequence[MaskedText]) -> None:
    """Write sessions as flat int32 tokens with masks and lengths. Raises OSError."""
    write_tensors(
        path,
        {
            "tokens": torch.from_numpy(np.concatenate([text.tokens for text in texts])),
            "mask": torch.from_numpy(np.concatenate([text.mask for text in texts])),
            "lengths": torch.tensor([len(text.tokens) for text in texts], dtype=torch.int32),
        },
    )


def load_sessions(path: Path) -> list[MaskedText]:
    """Read what `save_sessions` wrote."""
    tensors = load_file(path)
    lengths = tensors["lengths"].tolist()
    pieces = zip(tensors["tokens"].split(lengths), tensors["mask"].split(lengths), strict=True)
    return [MaskedText(tokens.numpy(), mask.numpy()) for tokens, mask in pieces]
