"""Prompts for load: held-out questions of the demo's domains, in one seeded order, none asked twice by a client.

The file was written by `python -m training.held_out_prompts`; a run longer than the pool begins anew, so requests also
carry a cache salt of their own where the server knows one, and no answer is helped by another's prefix.
"""

import itertools
import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from core.config import nearest
from core.errors import ConfigError

PROMPTS = Path(__file__).parent / "prompts" / "demo.json"
TURN = re.compile(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", re.DOTALL)


class Question(Struct, frozen=True):
    """One prompt as text, with the most tokens its answer may have."""

    domain: str
    text: str
    max_tokens: int

    @property
    def messages(self) -> list[dict[str, str]]:
        """The prompt as chat messages, for servers with a template of their own."""
        turns = [{"role": role, "content": content} for role, content in TURN.findall(self.text)]
        return turns or [{"role": "user", "content": self.text}]


class PromptPool:
    """Questions of some domains, taken by turns from each."""

    def __init__(self, domains: Sequence[str], seed: int, path: Path = PROMPTS) -> None:
        entries = json.loads(path.read_text(encoding="utf-8"))
        rng = random.Random(seed)  # noqa: S311, a seed must give the same order
        by_domain = []
        for domain in domains:
            if domain not in entries:
                raise ConfigError(f"unknown domain {domain!r}; {nearest(domain, list(entries))}")
            texts = sorted(set(entries[domain]["prompts"]))
            rng.shuffle(texts)
            by_domain.append([Question(domain, text, entries[domain]["max_tokens"]) for text in texts])
        self.questions = [question for turn in zip(*by_domain, strict=False) for question in turn]

    def asked_from(self, start: int) -> Iterator[Question]:
        """Yield questions without end from number `start` on, beginning anew when all were asked."""
        first = start % len(self.questions)
        return itertools.islice(itertools.cycle(self.questions), first, None)
