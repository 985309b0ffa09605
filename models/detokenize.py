"""Incremental detokenising: token ids in, one text piece per token out, never half a character.

Concatenated pieces plus the tail are the text of all tokens. State depends on the tokens alone, so a stream that is
taken over is rebuilt by feeding the tokens it has already shown.
"""

from collections.abc import Iterable

from tokenizers.decoders import DecodeStream

from models.tokenizer import Tokenizer


class Detokenizer:
    """Turns one answer's tokens into text as they come; holds back bytes that are no whole character yet."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._held: list[int] = []

    def pieces(self, token_ids: Iterable[int]) -> tuple[str, ...]:
        """Return one piece per token, empty while a character is incomplete."""
        return tuple(self._piece(token_id) for token_id in token_ids)

    def tail(self) -> str:
        """Return what is still held back when no token will follow: broken bytes show as U+FFFD."""
        return self._tokenizer.decode(self._held) if self._held else ""

    def _piece(self, token_id: int) -> str:
        piece: str | None = self._stream.step(self._tokenizer.backend, token_id)
        if piece is None:
            self._held.append(token_id)
            return ""
        self._held.clear()
        return piece
