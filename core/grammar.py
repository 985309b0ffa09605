"""What a constrained answer must look like: a closed description that travels with its job."""

import re
from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

# Bounds of what is compiled for a stranger: characters, brackets in brackets, answers to choose from.
MAX_TEXT = 65536
MAX_DEPTH = 32
MAX_CHOICES = 1024

# A JSON string, or what begins as one and never ends. Possessive, so that no input makes it slow.
_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}()]")


class GrammarKind(StrEnum):
    """The language a grammar's text is written in.

    json_schema  a JSON Schema; answers are compact JSON
    regex        a regular expression that the whole answer matches
    choice       a JSON list of texts, one of which is the answer
    lark         a context-free grammar in llguidance's variant of Lark, from the rule `start`
    """

    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    CHOICE = "choice"
    LARK = "lark"


class Grammar(Struct, frozen=True, forbid_unknown_fields=True):
    """The texts an answer may be; raises ValueError if brackets of `text` nest deeper than MAX_DEPTH."""

    kind: GrammarKind
    text: Annotated[str, Meta(min_length=1, max_length=MAX_TEXT)]

    def __post_init__(self) -> None:
        if (depth := nesting(self.text)) > MAX_DEPTH:
            raise ValueError(f"a grammar may nest {MAX_DEPTH} brackets, this one nests {depth}")


def nesting(text: str) -> int:
    """Return how deep brackets nest outside of JSON strings; closing ones that were never opened count for nothing."""
    depth = deepest = 0
    for bracket in _BRACKET.findall(_STRING.sub("", text)):
        depth = depth + 1 if bracket in "[{(" else max(0, depth - 1)
        deepest = max(deepest, depth)
    return deepest
