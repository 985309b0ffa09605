"""Models of the Hugging Face Hub: an id and a revision become a folder of the library's own cache. No torch.

Only what specd reads is fetched: JSON, safetensors, tokenizers and templates; never code, never pickles. The library
is optional (`pip install 'specd[hf]'`), and its cache, its tokens and HF_HUB_OFFLINE are its own affair.
"""

import re
from pathlib import Path
from typing import Any

from core.errors import CheckpointError, ConfigError
from core.registry import OPTIONAL

PATTERNS = ("*.json", "*.safetensors", "*.jinja", "tokenizer*", "*.model", "vocab.txt", "merges.txt")
NEVER = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.py", "*.pkl", "*.pickle", "*.msgpack", "*.h5", "*.gguf")
CONFIG = "config.json"
# Owner and name; neither can begin with a dot, as a relative path may.
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")

# What the library's errors mean to somebody who starts a server; by class name, the most telling first.
REASONS = (
    ("GatedRepoError", "access to it is restricted: ask for it on its page and log in (`hf auth login`, or HF_TOKEN)"),
    ("RevisionNotFoundError", "it has no such revision"),
    ("RepositoryNotFoundError", "there is no such model, or it is private and you are not logged in"),
    ("RemoteEntryNotFoundError", "it has no config.json, so it is no model that specd reads"),
    ("OfflineModeIsEnabled", "it is not in the local cache, and HF_HUB_OFFLINE forbids to fetch it"),
    ("LocalEntryNotFoundError", "it is not in the local cache, and cannot be fetched from here"),
    ("RevisionResolutionError", "it is not in the local cache, and cannot be fetched from here"),
    ("HFValidationError", "that is no valid id"),
)


def is_hub_id(name: str) -> bool:
    """Tell whether a name has the form of a Hub id, "owner/name"."""
    return HUB_ID.fullmatch(name) is not None


def is_pinned(revision: str | None) -> bool:
    """Tell whether a revision is a whole commit; whatever a branch or a tag names may change by itself."""
    return revision is not None and COMMIT.fullmatch(revision) is not None


def snapshot_folder(name: str, revision: str | None = None) -> Path:
    """Return the folder of a model of the Hub, fetched if it is not in the cache.

    revision is a commit, tag or branch, None the main branch. Raises ConfigError without the library, CheckpointError
    if the model cannot be had.
    """
    folder = _ask("snapshot_download", name, revision, allow_patterns=list(PATTERNS), ignore_patterns=list(NEVER))
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{_called(name, revision)}: it has no config.json, so it is no model that specd reads")
    return folder


def config_folder(name: str, revision: str | None = None) -> Path:
    """Return a folder that has the model's config.json, perhaps nothing else; raises as `snapshot_folder` does."""
    return _ask("hf_hub_download", name, revision, filename=CONFIG).parent


def _ask(function: str, name: str, revision: str | None, **arguments: Any) -> Path:
    try:
        ask = OPTIONAL.load(function)
    except ConfigError as error:
        raise ConfigError(
            f"{name} is a model of the Hugging Face Hub, which needs the library huggingface_hub: "
            "pip install 'specd[hf]', or give a folder"
        ) from error
    try:
        return Path(ask(repo_id=name, revision=revision, **arguments))
    except Exception as error:
        # The library's errors have no base of their own.
        bases = {each.__name__ for each in type(error).__mro__}
        for known, words in REASONS:
            if known in bases:
                raise CheckpointError(f"{_called(name, revision)}: {words}") from error
        if isinstance(error, OSError | ValueError):
            raise CheckpointError(f"{_called(name, revision)} cannot be fetched: {error}") from error
        raise


def _called(name: str, revision: str | None) -> str:
    return f"{name} at revision {revision}" if revision else name
