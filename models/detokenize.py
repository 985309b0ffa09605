"""Incremental detokenising: token ids in, one text piece per token out, never half a character.

Concatenated pieces plus the tail are the text of all tokens, special ones left out. State depends on the tokens alone,
so a stream that is taken over is rebuilt by feeding the tokens it has already shown.
"""

from collections.abc import Iterable

from tokenizers.decoders import DecodeStream

from models.tokenizer import Tokenizer

# A character has at most four bytes, so this many tokens without one are broken bytes: they are shown as U+FFFD, where
# holding them back would cost ever more and never end.
MAX_HELD = 16


class Detokenizer:
    """Turns one answer's tokens into text as they come; holds back bytes that are no whole character yet."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream()
        self._held: list[int] = []

    def pieces(self, token_ids: Iterable[int]) -> tuple[str, ...]:
        """Return one piece per token, empty while a character is incomplete."""
        pieces: list[str] = []
        for token_id in token_ids:
            if token_id in self._tokenizer.special_ids:
                pieces.append("")
                continue
            piece: str | None = self._stream.step(self._tokenizer.backend, token_id)
            if piece is None:
                piece = self._hold(token_id)
            elif self._held:
                self._held.clear()
            pieces.append(piece)
        return tuple(pieces)

    def tail(self) -> str:
        """Return what is still held back when no token will follow: broken bytes show as U+FFFD."""
        return self._tokenizer.decode(self._held) if self._held else ""

    def _hold(self, token_id: int) -> str:
        """Keep a token that ends inside a character; returns what can no longer become one."""
        self._held.append(token_id)
        if len(self._held) < MAX_HELD:
            return ""
        broken = self.tail()
        self._stream = DecodeStream()
        self._held.clear()
        return broken
