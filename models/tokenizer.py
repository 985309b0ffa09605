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
        except Exception as error:
            raise CheckpointError(f"{path} is not a readable tokenizer: {error}") from error
        config = _read_config(folder / "tokenizer_config.json")
        self.chat_template = _chat_template(folder, config)
        self.special_tokens = _special_tokens(config)
        self.vocab_size: int = self.backend.get_vocab_size(with_added_tokens=True)
        added = self.backend.get_added_tokens_decoder()
        self.special_ids = frozenset(token_id for token_id, token in added.items() if token.special)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the ids of `text`; special tokens written out in it are recognised."""
        ids: list[int] = self.backend.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(self, token_ids: list[int]) -> str:
        """Return the text of `token_ids` without special tokens."""
        text: str = self.backend.decode(token_ids, skip_special_tokens=True)
        return text


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
