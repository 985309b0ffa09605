"""Stop texts found in text that arrives in pieces. Knows no tokens.

Text that may be the beginning of a stop is held back until it is decided. The first stop to be complete ends the
answer, whichever it is, so the result does not depend on how the text was cut into pieces. State depends on the pieces
alone: a stream that is taken over is rebuilt by pushing what it has already shown.

Source: Knuth, Morris, Pratt 1977: one integer of state per stop, constant work per character on average, whatever the
stops look like.
"""

from collections.abc import Sequence


class StopMatcher:
    """Lets text through up to the first of `stops`, which itself goes out only with `include`.

    >>> matcher = StopMatcher(["END"])
    >>> matcher.push("one E")
    ('one ', False)
    >>> matcher.push("ND two")
    ('', True)
    """

    def __init__(self, stops: Sequence[str], include: bool = False) -> None:
        self._stops = [_Stop(text) for text in stops]
        self._include = include
        self._held = ""
        self.is_stopped = False

    def push(self, piece: str, *, may_end: bool = True) -> tuple[str, bool]:
        """Return what can be shown now, and whether a stop is complete: then nothing more will ever be shown.

        A stop that becomes complete where `may_end` is false counts as ordinary text.
        """
        if self.is_stopped:
            return "", True
        if not self._stops:
            return piece, False
        before = len(self._held)
        self._held += piece
        for index, character in enumerate(piece, start=before + 1):
            # Of several stops that end here the longest begins first.
            longest = max((len(stop.text) for stop in self._stops if stop.advance(character)), default=0)
            if longest and may_end:
                return self._end(index if self._include else index - longest), True
        return self._let_out(len(self._held) - max((stop.matched for stop in self._stops), default=0)), False

    def flush(self) -> str:
        """Return what is still held back when no text will follow; nothing after a stop."""
        return self._let_out(len(self._held))

    def _end(self, length: int) -> str:
        text, self._held, self.is_stopped = self._held[:length], "", True
        return text

    def _let_out(self, length: int) -> str:
        text, self._held = self._held[:length], self._held[length:]
        return text


class _Stop:
    """One stop; `matched` is the length of its longest proper beginning that the text now ends in."""

    def __init__(self, text: str) -> None:
        self.text, self.matched = text, 0
        # shorter[n]: the longest proper beginning of text[:n] that text[:n] also ends in.
        self._shorter = [0, 0]
        for character in text[1:]:
            self._shorter.append(self._extend(self._shorter[-1], character))

    def advance(self, character: str) -> bool:
        """Take one more character; tell whether the whole stop ends with it."""
        matched = self._extend(self.matched, character)
        is_complete = matched == len(self.text)
        self.matched = self._shorter[matched] if is_complete else matched
        return is_complete

    def _extend(self, matched: int, character: str) -> int:
        while matched and self.text[matched] != character:
            matched = self._shorter[matched]
        return matched + (self.text[matched] == character)
