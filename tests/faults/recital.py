"""An engine whose every token tells who wrote it, and after what: histories can be judged token by token.

A token is a letter computed from the prompt, all tokens before it and the epoch of the claim it was made under, as a
real model's depends on its context and its draws. So a token that was lost, repeated, moved, written by a worker that
had lost the job, or meant for another job does not fit where it stands.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from core.types import Emission, FinishReason, Request
from tests.service.fakes import FakeEngine

FIRST_LETTER, NUM_LETTERS = 33, 90


def token_after(prompt: Sequence[int], before: Sequence[int], epoch: int) -> int:
    """Return the token that a worker with a claim of `epoch` makes after `before`."""
    return FIRST_LETTER + (_number(prompt, before) + epoch) % NUM_LETTERS


def writers(prompt: Sequence[int], tokens: Sequence[int]) -> list[int]:
    """Return the epoch under which each token was made, as its letter tells; any number where it does not fit."""
    return [
        (token - FIRST_LETTER - _number(prompt, tokens[:index])) % NUM_LETTERS for index, token in enumerate(tokens)
    ]


def _number(prompt: Sequence[int], before: Sequence[int]) -> int:
    text = bytes(prompt) + b"\0" + bytes(before)
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())


@dataclass
class RecitingEngine(FakeEngine):
    """Makes three tokens a step for each request, from where the request stands."""

    said: dict[str, list[int]] = field(default_factory=dict)

    def add(self, request: Request) -> None:
        super().add(request)
        self.said[request.id] = list(request.output_ids)

    def _advance(self, request: Request, done: int) -> Emission:
        epoch, said = int(request.id.rpartition(":")[2]), self.said[request.id]
        num_tokens = min(3, request.sampling.max_tokens - done)
        for _ in range(num_tokens):
            said.append(token_after(request.prompt_ids, said, epoch))
        done += num_tokens
        reason = FinishReason.LENGTH if done == request.sampling.max_tokens else None
        self.running[request.id] = (request, done)
        if reason is not None:
            del self.running[request.id]
        return Emission(request.id, tuple(said[-num_tokens:]), 2, 2, min(2, num_tokens), reason)
