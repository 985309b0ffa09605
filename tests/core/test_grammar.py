"""A grammar is bounded before anybody compiles it, and old jobs without one stay readable."""

import msgspec
import pytest

from core.grammar import MAX_DEPTH, MAX_TEXT, Grammar, GrammarKind, nesting
from core.types import Sampling


def test_a_grammar_travels_with_its_sampling():
    sampling = Sampling(grammar=Grammar(GrammarKind.REGEX, "a+"))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(sampling), type=Sampling) == sampling


def test_a_sampling_of_before_there_were_grammars_is_read():
    fields = msgspec.to_builtins(Sampling(max_tokens=3))
    del fields["grammar"]
    assert msgspec.convert(fields, Sampling) == Sampling(max_tokens=3)


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "regex", "text": ""},
        {"kind": "regex", "text": "a" * (MAX_TEXT + 1)},
        {"kind": "xml", "text": "a"},
        {"kind": "regex", "text": "a", "more": 1},
        {"kind": "regex", "text": "(" * (MAX_DEPTH + 1)},
    ],
)
def test_what_is_out_of_bounds_is_refused(fields):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(fields, Grammar)


@pytest.mark.parametrize(("text", "depth"), [("", 0), ("[[]{}]", 2), ('{"[[[": [1]}', 2), ("))((", 2), ('"((', 0)])
def test_brackets_are_counted_outside_of_strings(text, depth):
    assert nesting(text) == depth
