"""Log-probabilities as OpenAI's clients read them, in the two shapes of its endpoints."""

from typing import Any

from client.wire import Chunk
from core.types import TokenLogprobs
from models.detokenize import Detokenizer
from models.tokenizer import Tokenizer

# JSON has no infinity: a token that cannot come is shown with vLLM's stand-in for it.
LOWEST = -9999.0


class LogprobsWriter:
    """Spells the log-probabilities of one choice, chunk by chunk; remembers where its text stands."""

    def __init__(self, tokenizer: Tokenizer, *, is_chat: bool) -> None:
        self._tokenizer, self._is_chat = tokenizer, is_chat
        self._detokenizer = Detokenizer(tokenizer)
        self._offset = 0

    def spell(self, chunk: Chunk) -> dict[str, Any]:
        """Return the log-probabilities of a chunk that has them for each of its tokens."""
        assert chunk.logprobs is not None
        rows = list(zip(chunk.token_ids, chunk.logprobs, strict=True))
        if self._is_chat:
            return {"content": [self._chat_entry(token_id, row) for token_id, row in rows], "refusal": None}
        return {
            "tokens": [self._name(token_id) for token_id, _ in rows],
            "token_logprobs": [_finite(row.logprob) for _, row in rows],
            "top_logprobs": [self._by_name(token_id, row) for token_id, row in rows],
            "text_offset": [self._place(token_id) for token_id, _ in rows],
        }

    def _chat_entry(self, token_id: int, row: TokenLogprobs) -> dict[str, Any]:
        top = [self._token(*pair) for pair in zip(row.top_ids, row.top_logprobs, strict=True)]
        return self._token(token_id, row.logprob) | {"top_logprobs": top}

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        data = self._tokenizer.token_bytes(token_id)
        return {"token": _readable(data), "logprob": _finite(logprob), "bytes": list(data)}

    def _by_name(self, token_id: int, row: TokenLogprobs) -> dict[str, float]:
        """Return the most likely tokens, and the one that came even where it is none of them."""
        pairs = [*zip(row.top_ids, row.top_logprobs, strict=True), (token_id, row.logprob)]
        return {self._name(one): _finite(logprob) for one, logprob in pairs}

    def _name(self, token_id: int) -> str:
        data = self._tokenizer.token_bytes(token_id)
        text = _readable(data)
        return text if text.encode() == data else f"bytes:{text}"

    def _place(self, token_id: int) -> int:
        """Return where a token's text begins in the answer's, for a token inside a character where that begins."""
        offset = self._offset
        (piece,) = self._detokenizer.pieces((token_id,))
        self._offset += len(piece)
        return offset


def _readable(data: bytes) -> str:
    """Return bytes as text, or spelt out where they are no whole characters."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in data)


def _finite(logprob: float) -> float:
    return max(logprob, LOWEST)
