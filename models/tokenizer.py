"""Text to token ids and back, by the model's own tokenizer.json. No torch."""

import json
import re
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as HubTokenizer

from core.errors import CheckpointError

# How tokenizers with byte fallback spell a lone byte.
BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_letters() -> dict[str, int]:
    """Return letter -> byte of byte-level vocabularies: printable bytes are themselves, the others follow from 256 on.

    Source: GPT-2's bytes_to_unicode, openai/gpt-2 src/encoder.py.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}


LETTER_BYTES = _byte_letters()


class Tokenizer:
    """A thin cover over the `tokenizers` library that adds what tokenizer_config.json says."""

    def __init__(self, folder: Path) -> None:
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(f"no tokenizer at {folder}: tokenizer.json is missing")
        try:
            self.backend: HubTokenizer = HubTokenizer.from_file(str(path))
        except Exception as error:
            raise CheckpointError(f"{path} is not a readable tokenizer: {error}") from error
        config = _read_config(folder / "tokenizer_config.json")
        self.chat_template = _chat_template(folder, config)
        self.special_tokens = _special_tokens(config)
        self.vocab_size: int = self.backend.get_vocab_size(with_added_tokens=True)
        added = self.backend.get_added_tokens_decoder()
        self.special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        self.added_ids = frozenset(added)
        # A sequence of decoders shows its parts in its state only.
        self._is_byte_level = b'"ByteLevel"' in self.backend.decoder.__getstate__() if self.backend.decoder else False

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the ids of `text`; special tokens written out in it are recognised."""
        ids: list[int] = self.backend.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of `token_ids`, special tokens left out unless asked for."""
        text: str = self.backend.decode(token_ids, skip_special_tokens=skip_special_tokens)
        return text

    def spellings(self) -> dict[int, str]:
        """Return every id with the token it stands for, as the vocabulary spells it."""
        return {token_id: token for token, token_id in self.backend.get_vocab(with_added_tokens=True).items()}

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes that one token stands for, which may be part of a character."""
        spelt = self.backend.id_to_token(token_id) or ""
        if token_id not in self.added_ids:
            if self._is_byte_level:
                return bytes(LETTER_BYTES[letter] for letter in spelt)
            if found := BYTE_TOKEN.fullmatch(spelt):
                return bytes.fromhex(found.group(1))
        return self.decode([token_id], skip_special_tokens=False).encode()


def _chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    """Find the template: in a file of its own, or in the config, alone or as the one named default among several."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    source = config.get("chat_template")
    if isinstance(source, list):
        source = {one.get("name"): one.get("template") for one in source if isinstance(one, dict)}.get("default")
    return source if isinstance(source, str) else None


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    """Return name -> text of the special tokens that the config names, such as eos_token."""
    named = {}
    for name, value in config.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            named[name] = text
    return named


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    return config if isinstance(config, dict) else {}
