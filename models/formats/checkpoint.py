"""A drafter's checkpoint in the canonical dialect, whichever format its files have.

Networks read only this: DeepSpec's keys and tensor names, and the keys of models/formats that other formats need.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.config import CheckpointKind
from core.errors import CheckpointError
from models.checkpoint import read_headers, read_some
from models.config_json import read_config
from models.formats.tensors import canonical_names
from models.formats.translate import num_drafts, translate


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One drafter: its kind, the name of the format it came in, its canonical config and tensors by canonical name.

    embed_tokens.weight and lm_head.weight may be missing: then the target's are used.
    """

    kind: CheckpointKind
    format: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def num_drafts(self) -> int:
        """How many tokens it drafts in a step."""
        return num_drafts(self.config)


def read_checkpoint(folder: Path, num_target_layers: int | None = None) -> Checkpoint:
    """Read a drafter's checkpoint of any format; num_target_layers is the target's depth, where it is known.

    Raises CheckpointError, naming the key or the tensor, for what is not understood and would change what is computed.
    """
    source = str(folder)
    translated = translate(read_config(folder), source, num_target_layers)
    names = canonical_names(read_headers(folder), translated.rename, translated.kind, source)
    by_file_name = read_some(folder, set(names.values()))
    tensors = {ours: by_file_name[name] for ours, name in names.items()}
    tables = {name: tensors.pop(name) for name in ("d2t",) if name in tensors}
    steps = settle_vocabulary(translated.config, names, tables, source)
    if steps is not None:
        tensors["d2t"] = steps
    return Checkpoint(translated.kind, translated.format, translated.config, tensors)


def settle_vocabulary(
    config: dict[str, Any], names: Collection[str], tables: dict[str, Tensor], source: str
) -> Tensor | None:
    """Return d2t i64 [draft_vocab_size], the step from a draft token's id to its target id; None if they are the same.

    names are the canonical names of the file, tables holds d2t if it is there, under the file's name. Raises
    CheckpointError for a reduced vocabulary without its table or its head, and for a table that is none.
    """
    drafted, vocab_size = config["draft_vocab_size"], config["vocab_size"]
    for name, why in (("d2t", "is how its ids become the target's"), ("lm_head.weight", "is its own head")):
        if drafted < vocab_size and name not in names:
            raise CheckpointError(
                f"{source}: tensor {name!r} is missing; with draft_vocab_size {drafted} below vocab_size {vocab_size} "
                f"it {why}"
            )
    if not tables:
        return None
    [steps] = tables.values()
    if steps.is_floating_point() or steps.dtype is torch.bool or steps.shape != (drafted,):
        raise CheckpointError(
            f"{source}: d2t must hold {drafted} whole numbers (draft_vocab_size), got {list(steps.shape)} {steps.dtype}"
        )
    steps = steps.to(torch.int64)
    ids = torch.arange(drafted) + steps
    if int(ids.min()) < 0 or int(ids.max()) >= vocab_size or len(ids.unique()) < drafted:
        raise CheckpointError(
            f"{source}: i + d2t[i] must be different target ids in 0..{vocab_size - 1}, got {int(ids.min())}.."
            f"{int(ids.max())}; d2t holds the difference from draft id to target id"
        )
    if drafted < vocab_size:
        return steps
    if steps.any():
        raise CheckpointError(f"{source}: d2t permutes a full vocabulary (draft_vocab_size is vocab_size)")
    return None
