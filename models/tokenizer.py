"""Text to token ids and back, by the model's own tokenizer.json. No torch."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as HubTokenizer

from core.errors import CheckpointError


class Tokenizer:
    """A thin cover over the `tokenizers` library that adds what tokenizer_config.json says."""

    def __init__(self, folder: Path) -> None:
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(f"no tokenizer at {folder}: tokenizer.json is missing")
        try:
            self.backend: HubTokenizer = HubTokenizer.from_file(str(path))
        except Exception as error:  # noqa: BLE001 - the library raises bare Exception for a broken file
            raise CheckpointError(f"{path} is not a readable tokenizer: {error}") from error
        config = _read_config(folder / "tokenizer_config.json")
        self.chat_template: str | None = config.get("chat_template")
        self.vocab_size: int = self.backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the ids of `text`; special tokens written out in it are recognised."""
        ids: list[int] = self.backend.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(self, token_ids: list[int]) -> str:
        """Return the text of `token_ids` without special tokens."""
        text: str = self.backend.decode(token_ids, skip_special_tokens=True)
        return text


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    return config if isinstance(config, dict) else {}
