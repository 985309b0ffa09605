"""Grammars compiled over a model's tokenizer, by llguidance. No torch, so that the gateway can check what it is sent.

llguidance walks the trie of the vocabulary along an Earley parser, and forces the canonical tokens of text that is the
only one possible (https://github.com/guidance-ai/llguidance, docs/optimizations.md). What is compiled comes from
strangers: every bound of the library that costs memory or time is set here.
"""

import json
import threading
from collections import OrderedDict

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from core.errors import RequestError
from core.grammar import MAX_CHOICES, Grammar, GrammarKind
from models.constraint import Constraint
from models.tokenizer import Tokenizer

# Compiled grammars that are kept for the next request that asks for one of them.
MAX_KEPT = 32
# About a millisecond for every 50000 units of fuel, and 1 to 2 kB for each state of the lexer.
LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=200_000,
    step_max_items=50_000,
    max_items_in_row=2_000,
    max_lexer_states=20_000,
    max_grammar_size=100_000,
    verbose_errors=False,
)


class GrammarCompiler:
    """Compiles for one tokenizer; safe to call from several threads, which compile side by side.

    eos_ids end an answer where the grammar lets it end; vocab_size is that of the model's logits, the tokenizer's if
    None.
    """

    def __init__(self, tokenizer: Tokenizer, eos_ids: tuple[int, ...], vocab_size: int | None = None) -> None:
        self._tokenizer, self._eos_ids, self._vocab_size = tokenizer, eos_ids, vocab_size
        self._lock = threading.Lock()
        self._prepared: LLTokenizer | None = None
        self._kept: OrderedDict[Grammar, LLMatcher] = OrderedDict()

    def prepare(self) -> LLTokenizer:
        """Return the tokenizer as llguidance reads it, made once; RequestError if it cannot.

        Takes about 2.5 s for 151,936 tokens.
        """
        with self._lock:
            if self._prepared is None:
                try:
                    self._prepared = LLTokenizer(
                        self._tokenizer.backend.to_str(), n_vocab=self._vocab_size, eos_token=[*self._eos_ids]
                    )
                except ValueError as error:
                    raise RequestError(f"this model's tokenizer takes no grammars: {error}", param="grammar") from error
            return self._prepared

    def compile(self, grammar: Grammar) -> Constraint:
        """Return the beginning of an answer; raises RequestError for a grammar that is wrong, or beyond the limits."""
        prepared = self.prepare()
        with self._lock:
            matcher = self._kept.get(grammar)
            if matcher is not None:
                self._kept.move_to_end(grammar)
        if matcher is None:
            matcher = LLMatcher(prepared, _translate(grammar), log_level=0, limits=LIMITS)
            if matcher.is_error():
                raise RequestError(f"the grammar does not compile: {matcher.get_error()}", param="grammar")
            self._keep(grammar, matcher)
        return Constraint(matcher.deep_copy(), prepared.vocab_size)

    def _keep(self, grammar: Grammar, matcher: LLMatcher) -> None:
        with self._lock:
            self._kept[grammar] = matcher
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)


def _translate(grammar: Grammar) -> str:
    """Return a grammar in llguidance's own form; raises RequestError for what is not even JSON where it should be."""
    match grammar.kind:
        case GrammarKind.REGEX:
            return LLMatcher.grammar_from_regex(grammar.text)
        case GrammarKind.LARK:
            return LLMatcher.grammar_from_lark(grammar.text)
        case GrammarKind.CHOICE:
            # A text of Lark is written like one of JSON.
            return LLMatcher.grammar_from_lark(f"start: {' | '.join(map(json.dumps, read_choices(grammar.text)))}")
        case GrammarKind.JSON_SCHEMA:
            # No white space between tokens of JSON: a model that may write it may write it for ever.
            try:
                return LLMatcher.grammar_from_json_schema(grammar.text, overrides={"whitespace_flexible": False})
            except ValueError as error:
                raise RequestError(f"the JSON schema is not valid JSON: {error}", param="grammar") from error


def read_choices(text: str) -> list[str]:
    """Return the texts of a choice; raises RequestError unless `text` is a JSON list of at least one, none empty."""
    try:
        choices = json.loads(text)
    except ValueError as error:
        raise RequestError(
            f"a choice is a JSON list of texts, and this is not JSON: {error}", param="grammar"
        ) from error
    if not isinstance(choices, list) or not all(isinstance(one, str) and one for one in choices):
        raise RequestError("a choice is a JSON list of texts, none of them empty", param="grammar")
    if not 1 <= len(choices) <= MAX_CHOICES:
        raise RequestError(f"a choice has 1 to {MAX_CHOICES} texts, got {len(choices)}", param="grammar")
    return choices
