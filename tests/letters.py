"""Languages of a few letters over a tokenizer of a few tokens, whose allowed tokens can be told without any library."""

from tokenizers import Tokenizer as HubTokenizer
from tokenizers import decoders, models, pre_tokenizers

from core.grammar import Grammar, GrammarKind
from models.tokenizer import Tokenizer

TOKENS = ("a", "b", "c", "ab", "<e>")
EOS = 4


def letters(folder):
    """A tokenizer of a, b, c and ab, with an end of text."""
    backend = HubTokenizer(models.BPE(vocab={token: i for i, token in enumerate(TOKENS[:4])}, merges=[("a", "b")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([TOKENS[EOS]])
    backend.save(str(folder / "tokenizer.json"))
    return Tokenizer(folder)


def regex(text):
    return Grammar(GrammarKind.REGEX, text)


# No c follows a c, and the answer has at least eight letters: in its first tokens that is all there is to know.
NO_DOUBLE = regex("(([ab]|c[ab]){8,}c?)")


def allowed_no_double(output):
    """The tokens that may follow in NO_DOUBLE while its end is far away."""
    return [0, 1, 3] if output and output[-1] == 2 else [0, 1, 2, 3]


# One free letter, then three tokens that are forced: c, ab, c.
FORCED = regex("([ab]cabc){9,}")


def allowed_forced(output):
    return ([0, 1], [2], [3], [2])[len(output) % 4]
