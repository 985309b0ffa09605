"""A training recipe: one TOML file that says what to train, for which target, on what, and how. No torch.

Every key has a type and a bound; an unknown key is an error that names the nearest known one.
"""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from core.config import CheckpointKind, nearest
from core.errors import ConfigError
from core.known_keys import find_unknown_key
from core.toml_file import read_toml

RECIPES = Path(__file__).parent / "recipes"
Positive = Annotated[int, Meta(ge=1)]
Rate = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]


class Sizes(Struct, frozen=True):
    """The sizes of a new drafter, and what those are that a recipe leaves out (DrafterShape)."""

    num_layers: int = 5
    block_size: int = 7
    mask_token_id: int = 0
    sample_from_anchor: bool = True
    markov_rank: int = 256
    markov_head: Literal["vanilla", "gated", "rnn"] = "vanilla"
    confidence_head: bool = True


class DrafterShape(Struct, frozen=True, forbid_unknown_fields=True):
    """What is trained; sizes that are not said are the target's.

    From num_layers on, keys that are left out are those of the drafter to go on from, or of `Sizes` for a new one. Of a
    drafter to go on from they must be its own.

    kind                dspark, dflash or eagle3
    target_layer_ids    target layers read, ascending from 0; the last is not among them
    start               "target": at the target's last layers; "random"; or the drafter to go on from: "demo", a folder
                        or a Hub id
    start_share         of the drafter to go on from, in the weights that are written: what is learnt anew replaces less
                        of what it knew (training/averaged_weights.py)
    num_layers          draft layers; eagle3 has one
    block_size          slots of a block; eagle3: drafts of a chain
    mask_token_id       what stands in the slots after the anchor
    sample_from_anchor  slot j predicts the token after its own position; if not, the token at it
    markov_rank         of DSpark's sequential head
    """

    kind: CheckpointKind
    target_layer_ids: tuple[int, ...]
    start: str = "target"
    start_share: Share = 0.0
    num_layers: Positive | None = None
    block_size: Positive | None = None
    mask_token_id: int | None = None
    sample_from_anchor: bool | None = None
    markov_rank: Positive | None = None
    markov_head: Literal["vanilla", "gated", "rnn"] | None = None
    confidence_head: bool | None = None

    def sizes(self) -> Sizes:
        """Return those of a new drafter; an eagle3 drafter has one layer unless another number is said."""
        said = {key: value for key in Sizes.__struct_fields__ if (value := getattr(self, key)) is not None}
        return Sizes(**({"num_layers": 1} if self.kind == "eagle3" else {}) | said)


class Data(Struct, frozen=True, forbid_unknown_fields=True):
    """What it learns from.

    source         "shards": what `specd data prepare` wrote; "cache": features on disk, DeepSpec's; "demo": tasks, the
                   standard library and what the target writes on both
    folder         of shards or cache
    row_len        tokens of a packed row; of longer documents so many are read, up to the last to be learnt
    text_tokens    of source "demo": what the target is to write
    session_share  of source "demo": how much of that in sessions of several tasks
    """

    source: Literal["shards", "cache", "demo"] = "shards"
    folder: str = ""
    row_len: Annotated[int, Meta(ge=16)] = 4096
    text_tokens: Positive = 300_000
    session_share: Share = 0.1


class Loss(Struct, frozen=True, forbid_unknown_fields=True):
    """Factors of DSpark's terms (DFlash is trained by cross entropy alone); position_decay is in slots.

    step_decay  Eagle3: what a step weighs beside the one before
    """

    cross_entropy: float = 0.1
    total_variation: float = 0.9
    confidence: float = 1.0
    position_decay: Rate = 4.0
    step_decay: Share = 0.8


class Optimiser(Struct, frozen=True, forbid_unknown_fields=True):
    """AdamW; "muon" takes the layers' matrices from it. Rates warm up for a share of the run, then fall as a cosine."""

    kind: Literal["adamw", "muon"] = "adamw"
    learning_rate: Rate = 6e-4
    muon_learning_rate: Rate = 0.01
    betas: tuple[Share, Share] = (0.9, 0.999)
    weight_decay: Annotated[float, Meta(ge=0)] = 0.0
    warm_up: Share = 0.04
    max_gradient_norm: Rate = 1.0


class Run(Struct, frozen=True, forbid_unknown_fields=True):
    """How long and how.

    steps          optimiser steps; 0 is as many as `epochs` over the data take
    minutes        end and decay by then at the latest; 0 is no limit. A resumed run with a limit is not the same run
    num_rows       rows of one target pass, over all processes
    accumulation   target passes of one step
    anchor_draws   times that anchors are drawn, and the drafter run, per target pass
    num_anchors    blocks of a row and draw, at most
    precision      of products, by autocast; the weights are float32, with "float32" the target too
    """

    steps: Annotated[int, Meta(ge=0)] = 0
    epochs: Positive = 10
    minutes: Annotated[float, Meta(ge=0)] = 0.0
    num_rows: Positive = 1
    accumulation: Positive = 1
    anchor_draws: Positive = 1
    num_anchors: Positive = 512
    seed: int = 42
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    compile: bool = False
    threads: Annotated[int, Meta(ge=0)] = 0
    log_steps: Positive = 10
    save_s: Rate = 600.0
    tensorboard: bool = False


class Recipe(Struct, frozen=True, forbid_unknown_fields=True):
    """One run: target is "demo", a folder or a Hub id; output gets the drafter, output/run its state and curves."""

    target: str
    output: str
    drafter: DrafterShape
    data: Data = Data()
    loss: Loss = Loss()
    optimiser: Optimiser = Optimiser()
    run: Run = Run()


def read_recipe(name: str, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe, a file or one of the shipped by name, with "key=value" changes; raises ConfigError."""
    path = Path(name)
    if not path.suffix and not path.exists():
        path = RECIPES / f"{name}.toml"
        if not path.exists():
            raise ConfigError(f"no recipe {name!r}; {nearest(name, shipped_recipes())}; or give a file")
    tree = read_toml(path, "the recipe")
    for change in changes:
        _change(tree, change)
    if unknown := find_unknown_key(tree, Recipe):
        raise ConfigError(f"unknown key {unknown.path}; {unknown.hint}")
    try:
        recipe = msgspec.convert(tree, Recipe)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {error}") from error
    _check_values(recipe)
    return recipe


def shipped_recipes() -> list[str]:
    """Return the names of the recipes that come with specd."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def _change(tree: dict[str, Any], change: str) -> None:
    key, separator, text = change.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set takes key=value, such as run.steps=100, got {change!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        # A bare word is text, as in a shell.
        value = text
    *sections, field = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"--set {change}: {section!r} is no section")
    tree[field] = value


def _check_values(recipe: Recipe) -> None:
    drafter, data, sizes = recipe.drafter, recipe.data, recipe.drafter.sizes()
    if data.source != "demo" and not data.folder:
        raise ConfigError(f'data.folder is missing; source "{data.source}" reads one (--set data.folder=FOLDER)')
    if data.source == "demo" and recipe.target != "demo":
        raise ConfigError(f'data.source "demo" is text of the demo target, and target is {recipe.target!r}')
    if drafter.kind == "eagle3" and sizes.num_layers != 1:
        raise ConfigError(f"drafter.num_layers of an eagle3 drafter is 1, got {sizes.num_layers}")
    if drafter.kind != "eagle3" and sizes.block_size < 2 and not sizes.sample_from_anchor:
        raise ConfigError("drafter.block_size must be at least 2 where slots predict their own positions")
