"""Grammars compile once, say what is wrong with them, and move with committed tokens only."""

import pytest
from llguidance import LLParserLimits

from core.errors import EngineError, RequestError
from core.grammar import Grammar, GrammarKind
from letters import EOS, FORCED, TOKENS, letters, regex
from models import grammar
from models.grammar import GrammarCompiler
from models.token_masks import TokenMasks


@pytest.fixture(scope="module")
def compiler(tmp_path_factory):
    return GrammarCompiler(letters(tmp_path_factory.mktemp("letters")), (EOS,), len(TOKENS))


def allowed(masks, row):
    return [token for token in range(len(TOKENS)) if masks[row, token // 8] >> token % 8 & 1]


@pytest.mark.parametrize(
    ("kind", "text", "first"),
    [
        ("regex", "c(a|b)", [2]),
        ("choice", '["ab", "ca"]', [0, 2, 3]),
        ("lark", 'start: "b" start | "c"', [1, 2]),
        ("json_schema", '{"enum": []}', None),
    ],
)
def test_every_kind_of_grammar_says_what_may_come_first(compiler, kind, text, first):
    if first is None:
        with pytest.raises(RequestError, match="does not compile"):
            compiler.compile(Grammar(GrammarKind(kind), text))
        return
    masks, failed = TokenMasks().fill([(compiler.compile(Grammar(GrammarKind(kind), text)), [])])
    assert (allowed(masks, 0), failed) == (first, {})


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        ("regex", "(a", "unclosed group"),
        ("lark", 'begin: "a"', "start"),
        ("json_schema", "{x", "not valid JSON"),
        ("json_schema", '{"type": "objct"}', "objct"),
        ("json_schema", '{"not": {}}', "not"),
        ("json_schema", '{"$ref": "http://example.org/schema"}', "example.org"),
        ("choice", "ab", "JSON list"),
        ("choice", "[]", "1 to"),
        ("choice", '["a", ""]', "none of them empty"),
    ],
)
def test_a_grammar_that_is_wrong_is_refused_in_words(compiler, kind, text, said):
    with pytest.raises(RequestError, match=said) as refused:
        compiler.compile(Grammar(GrammarKind(kind), text))
    assert refused.value.param == "grammar"


def test_a_grammar_beyond_the_limits_is_refused(compiler, monkeypatch):
    monkeypatch.setattr(grammar, "LIMITS", LLParserLimits(max_grammar_size=3))
    with pytest.raises(RequestError, match=r"too big|too large|limit|size"):
        compiler.compile(Grammar(GrammarKind.LARK, 'start: "a" "b" "a" "c" start "a" | "b" "c" "a"'))


def test_a_mask_follows_every_draft_up_to_the_first_that_is_forbidden(compiler):
    constraint = compiler.compile(FORCED)
    masks, failed = TokenMasks().fill([(constraint, [0, 2, 1, 1]), (compiler.compile(regex("b+")), [])])
    assert [allowed(masks, row) for row in range(6)] == [[0, 1], [2], [3], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [1]]
    assert failed == {}
    assert constraint.advance([0, 2]) == 2


def test_a_constraint_moves_with_committed_tokens_only(compiler):
    constraint = compiler.compile(FORCED)
    other = compiler.compile(FORCED)
    for _ in range(2):
        assert constraint.guide([1, 0, 0], 3, is_certain=False).tokens == [1, 2, 3]
    assert constraint.advance([0]) == 1
    assert constraint.guide([], 5, is_certain=True).is_forced == [True] * 3
    assert other.guide([], 5, is_certain=True).tokens == []


def test_a_forbidden_draft_ends_a_point_mass_before_it_and_a_sampled_draft_behind_it(compiler):
    constraint = compiler.compile(regex("[ab]{9}"))
    assert constraint.guide([0, 2, 1], 3, is_certain=True).tokens == [0]
    assert constraint.guide([0, 2, 1], 3, is_certain=False).tokens == [0, 2]


def test_nothing_follows_the_end(compiler):
    constraint = compiler.compile(regex("cc"))
    assert constraint.guide([2, 2, 2], 3, is_certain=False).tokens == [2, 2]
    assert constraint.advance([2, 2, EOS]) == 2
    assert constraint.is_complete


def test_a_committed_token_outside_of_the_grammar_is_an_error(compiler):
    with pytest.raises(EngineError, match="left the grammar"):
        compiler.compile(regex("cc")).advance([2, 1])
