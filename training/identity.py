"""What a target is, by hash: so that nothing is trained on tokens, texts or features that are another's."""

import hashlib
from pathlib import Path

import torch

from core.errors import DataError
from models.checkpoint import read_headers, read_parts

# Of each tensor: whoever trains on changes all of them, so their beginnings tell two checkpoints apart.
BEGINNING = 4096


def weights_sha256(folder: Path) -> str:
    """Return a hash of the names, shapes, types and first numbers of a checkpoint's tensors; raises CheckpointError."""
    headers = read_headers(folder)
    digest = hashlib.sha256()
    for name, tensor in sorted(read_parts(folder, BEGINNING).items()):
        header = headers[name]
        digest.update(f"{name} {header.dtype} {list(header.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def tokenizer_sha256(folder: Path) -> str:
    """Return the hash of a target's tokenizer.json; raises DataError where it has none."""
    path = folder / "tokenizer.json"
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}), and texts are compared with the target's tokenizer by it"
        ) from error


def check_tokens(texts: Path, found: str, target: Path) -> None:
    """Raise DataError unless prepared texts have the tokens of a target: found is their tokenizer's hash."""
    wanted = tokenizer_sha256(target)
    if found != wanted:
        raise DataError(
            f"{texts} holds tokens of another tokenizer (sha256 {found[:12]}) than the target's, {target} "
            f"({wanted[:12]}); prepare it again: specd data prepare ... --target {target}"
        )
