"""What `specd inspect` says of a drafter: how it is read, from which format, and whether it fits a target."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cli.inspect_tensors import shape_rows, tensor_rows
from core.errors import CheckpointError
from models.calibration_file import CALIBRATION_FILE, read_calibration
from models.checkpoint import read_headers, read_some
from models.config_json import read_config
from models.formats.backbone import SLIDING
from models.formats.chain import NORMS
from models.formats.checkpoint import settle_vocabulary
from models.formats.tensors import canonical_names
from models.formats.translate import Translation, translate
from models.load_drafter import check_network

Rows = list[tuple[str, str]]

KINDS = {"dspark": "DSpark", "dflash": "DFlash", "eagle3": "EAGLE-3"}
# A drafter's copies of the target's, and the target's own names for them.
COPIES = {"embed_tokens.weight": "model.embed_tokens.weight", "lm_head.weight": "lm_head.weight"}
DEFAULT_LAYERS = "the format's default, found from the target's depth (--target)"


def describe_drafter(folder: Path, config: dict[str, Any], beside: Path | None) -> Rows:
    """Return (what, value) lines of a drafter; raises CheckpointError for what is not understood or does not fit."""
    target = None if beside is None else read_config(beside)
    depth = None if target is None else target.get("num_hidden_layers")
    said = translate(config, str(folder), depth)
    check_network(said.kind, said.config, str(folder))
    made, headers = said.config, read_headers(folder)
    names = canonical_names(headers, said.rename, said.kind, str(folder))
    settle_vocabulary(made, names, read_some(folder, {names["d2t"]} if "d2t" in names else set()), str(folder))
    rows = [
        ("role", f"drafter ({KINDS[said.kind]})"),
        ("format", said.format),
        ("kind", said.kind),
        ("drafts per step", _drafts(said)),
        ("reads target layers", _layers(made)),
        *(_chain_rows(made) if said.kind == "eagle3" else _block_rows(made)),
        ("calibration", _calibration(folder, said.num_drafts)),
        *shape_rows(made, _reduced(made)),
        ("embedding", _whose(names, "embed_tokens.weight")),
        ("head", _whose(names, "lm_head.weight")),
        *tensor_rows(headers, [names[name] for name in COPIES if name in names and _is_full(made, name)]),
    ]
    if unused := sorted(set(headers) - set(names.values())):
        rows.append(("tensors not used", ", ".join(unused)))
    if target is not None and beside is not None:
        rows.append(("fits the target", _fit(folder, beside, made, target, names)))
    return rows


def _drafts(said: Translation) -> str:
    made = said.config
    if said.kind == "eagle3":
        return f"{said.num_drafts} (a chain)"
    slots = (
        "slot j predicts the token after its own"
        if made["sample_from_anchor"]
        else "slots are filled in: slot j predicts its own token, slot 0 none"
    )
    return f"{said.num_drafts} (block of {made['block_size']}; {slots})"


def _layers(made: dict[str, Any]) -> str:
    ids = made.get("target_layer_ids")
    told = DEFAULT_LAYERS if ids is None else ", ".join(map(str, ids))
    of = f" of {made['num_target_layers']}" if "num_target_layers" in made else ""
    return f"{told}{of} (outputs, counted from 0; -1 is the embedding)"


def _block_rows(made: dict[str, Any]) -> Rows:
    rank = made["markov_rank"]
    reads = "the state and the previous token" if made.get("confidence_head_with_markov") else "the state"
    slides = made["layer_types"].count(SLIDING)
    windows = (
        f"{slides} of {len(made['layer_types'])} layers see {made['sliding_window']} positions" if slides else "none"
    )
    causal = f", {'causal' if made['sliding_is_causal'] else 'not causal'} in the block" if slides else ""
    return [
        ("mask token", str(made["mask_token_id"])),
        ("windows", windows + causal),
        ("full layers", "causal in the block" if made["is_causal"] else "see their whole block"),
        ("sequential head", f"Markov ({made['markov_head_type']}), rank {rank}" if rank else "none"),
        ("confidence head", f"yes, from {reads}" if made["enable_confidence_head"] else "none"),
    ]


def _chain_rows(made: dict[str, Any]) -> Rows:
    norms = [name for name in (*NORMS, "qk_norm", "feeds_normed") if made[name]]
    return [("norm options", ", ".join(norms) or "none"), ("attention bias", "yes" if made["attention_bias"] else "no")]


def _calibration(folder: Path, width: int) -> str:
    return CALIBRATION_FILE if read_calibration(folder, width) is not None else "none; `specd calibrate` makes one"


def _reduced(made: dict[str, Any]) -> str:
    drafted = made["draft_vocab_size"]
    return f" ({drafted} of them are drafted)" if drafted < made["vocab_size"] else ""


def _whose(names: Mapping[str, str], name: str) -> str:
    return "in the file" if name in names else "the target's"


def _is_full(made: dict[str, Any], name: str) -> bool:
    """Tell whether a drafter's embedding or head can be a copy of its target's: a reduced head is its own."""
    return name == "embed_tokens.weight" or made["draft_vocab_size"] == made["vocab_size"]


def _fit(
    folder: Path,
    beside: Path,
    made: dict[str, Any],
    target: dict[str, Any],
    names: Mapping[str, str],
) -> str:
    """Return which copies of the target's weights a drafter has; raises CheckpointError if it is another target's."""
    depth = target.get("num_hidden_layers")
    wanted = {
        "hidden_size": made["target_hidden_size"],
        "vocab_size": made["vocab_size"],
        "num_hidden_layers": made.get("num_target_layers", depth),
    }
    for key, value in wanted.items():
        if target.get(key) != value:
            raise CheckpointError(f"{folder} was made for a target of {key} {value}; {beside} has {target.get(key)}")
    if isinstance(depth, int) and made["target_layer_ids"][-1] > depth - 2:
        raise CheckpointError(
            f"{folder} reads layer {made['target_layer_ids'][-1]}; {beside} has raw states up to {depth - 2}"
        )
    tied = bool(target.get("tie_word_embeddings"))
    theirs = {name: COPIES["embed_tokens.weight"] if tied else theirs for name, theirs in COPIES.items()}
    said = []
    for name in COPIES:
        if name in names and _is_full(made, name):
            ours = read_some(folder, {names[name]})[names[name]]
            other = read_some(beside, {theirs[name]}).get(theirs[name])
            same = other is not None and ours.shape == other.shape and torch.equal(ours.to(other.dtype), other)
            said.append(f"{name} {'equals' if same else 'differs from'} the target's")
    return f"yes{'; ' if said else ''}{', '.join(said)}"
