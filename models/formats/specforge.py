"""SpecForge's checkpoints (sgl-project/SpecForge): DFlash and DSpark as z-lab's with more keys, EAGLE-3 as EAGLE's.

Its DFlash fills slots in, its DSpark is trained on shifted ones (labels a+1..a+G). `norm_output`, true by default,
says here that the norm before the head is applied; speculators mean something else by it.
"""

from core.errors import CheckpointError
from models.formats.backbone import BACKBONE_KEYS, translate_backbone
from models.formats.block import HEAD_KEYS, translate_heads
from models.formats.chain import NORMS, translate_chain
from models.formats.keys import Config, architectures, check_keys, check_neutral, flag, one_of, section, whole_number
from models.formats.layer_ids import low_middle_high, read_layer_ids
from models.formats.vocabulary import VOCABULARY_KEYS, translate_vocabulary
from models.formats.zlab import ARCHITECTURE as DFLASH
from models.formats.zlab import INSIDE as ZLAB_INSIDE
from models.formats.zlab import KNOWN as ZLAB_KNOWN
from models.formats.zlab import translate_dflash

NAME = "SpecForge"
DSPARK, EAGLE3 = "DSparkDraftModel", "LlamaForCausalLMEagle3"
# Where DFlash's keys stand, and DSpark's in some files.
TABLES = ("dflash_config", "dspark_config")
# A DFlashDraftModel with one of these in such a table is SpecForge's, not z-lab's.
OWN_KEYS = ("projector_type", "attention_mode", "attention_modes", "shift_label", "confidence_head_alpha", *HEAD_KEYS)
INSIDE = ZLAB_INSIDE | {*OWN_KEYS, "emb_dim", "gru_hidden_dim", "pure_draft_prefix_len"}
KNOWN = ZLAB_KNOWN | {*HEAD_KEYS, "dspark_config"}
# Of EAGLE-3: the keys that may name the layers, here all on the same base.
LAYER_KEYS = ("target_hidden_layer_ids", "eagle_aux_hidden_state_layer_ids", "target_layer_ids")
EAGLE_KNOWN = BACKBONE_KEYS | {
    *VOCABULARY_KEYS,
    *NORMS,
    *LAYER_KEYS,
    "eagle_config",
    "norm_output",
    "num_aux_hidden_states",
    # A full head that the file lacks is the target's in any case, and one that it has is a copy.
    "reuse_target_lm_head",
}
# What NVIDIA's Model Optimizer adds, which writes this format too (export_spec_ckpt_config): its options for layers and
# heads that EAGLE-3 does not have, and the values that make it EAGLE-3.
EAGLE_NEUTRAL: dict[str, tuple[object, ...]] = {
    "next_layer_regular": (True,),
    "parallel_draft_step": (1,),
    "use_aux_hidden_state": (True,),
    "use_input_layernorm_in_first_layer": (True,),
    "use_last_layernorm": (True,),
    "use_mtp_layernorm": (False,),
}
# How many layers each head for a further token would have; there are none at a parallel_draft_step of 1.
EAGLE_INSIDE = frozenset((*LAYER_KEYS, *EAGLE_NEUTRAL, "parallel_draft_heads_num_layers"))


def recognise(config: Config) -> bool:
    """Tell whether config.json names an architecture of SpecForge's, or z-lab's with SpecForge's keys."""
    names = architectures(config)
    tables = [table for name in TABLES if isinstance(table := config.get(name), dict)]
    has_own = any(key in table for table in tables for key in OWN_KEYS)
    return DSPARK in names or EAGLE3 in names or (DFLASH in names and has_own)


def translate(config: Config, num_target_layers: int | None) -> Config:
    """Return the canonical config (`Dialect.translate`)."""
    if EAGLE3 in architectures(config):
        return _translate_eagle3(config, num_target_layers)
    check_keys(config, KNOWN)
    inside = _one_table(config)
    config = {**config, "dflash_config": inside}
    is_dspark = DSPARK in architectures(config) or inside.get("projector_type") == "dspark"
    _check_inside(inside, is_dspark=is_dspark)
    places = (("dflash_config", inside), ("config.json", config))
    alpha = one_of(places, "confidence_head_alpha")
    has_confidence = None if alpha is None else alpha > 0
    heads = (
        translate_heads(places, rank=None, has_confidence=has_confidence, with_markov=True)
        if is_dspark
        else {"markov_rank": 0, "enable_confidence_head": False}
    )
    return {
        **translate_dflash(config, num_target_layers, default_size=None),
        **heads,
        "sample_from_anchor": is_dspark,
    }


def _one_table(config: Config) -> Config:
    """Return what the tables say together; raises CheckpointError for an unknown key, and where two disagree."""
    tables = tuple((name, section(config, name)) for name in TABLES)
    for name, table in tables:
        check_keys(table, INSIDE, f"config.json: {name}")
    return {key: one_of(tables, key) for _, table in tables for key in table}


def _check_inside(inside: Config, *, is_dspark: bool) -> None:
    """Raise CheckpointError for attention and slots of a kind that the networks do not have."""
    where = "config.json: dflash_config"
    modes = inside.get("attention_modes") or [inside.get("attention_mode") or "gqa"]
    if other := [mode for mode in modes if str(mode).lower() not in ("gqa", "mha")]:
        raise CheckpointError(f"{where}: attention mode {other[0]!r} is not supported; 'gqa' is")
    check_neutral(inside, {"projector_type": ("dspark",) if is_dspark else ("dflash",)}, where)
    check_neutral(inside, {"shift_label": (is_dspark,)}, where)
    if not is_dspark and inside.get("markov_rank"):
        raise CheckpointError(f"{where}: markov_rank is {inside['markov_rank']}, but projector_type is not 'dspark'")


def _translate_eagle3(config: Config, num_target_layers: int | None) -> Config:
    inside = section(config, "eagle_config")
    check_keys(config, EAGLE_KNOWN)
    check_keys(inside, EAGLE_INSIDE, "config.json: eagle_config")
    check_neutral(inside, EAGLE_NEUTRAL, "config.json: eagle_config")
    if not flag(config, "norm_output", default=True):
        raise CheckpointError("config.json: norm_output is false, a head without its norm; that is not supported")
    if config.get("model_type") not in (None, "llama"):
        raise CheckpointError(f"config.json: model_type of {EAGLE3} must be 'llama', got {config['model_type']!r}")
    backbone = translate_backbone(config, "llama")
    made = backbone | translate_vocabulary(config, backbone)
    told = [(key, one_of((("eagle_config", inside), ("config.json", config)), key)) for key in LAYER_KEYS]
    named = {key: value for key, value in told if value is not None}
    depth = made.get("num_target_layers") or num_target_layers
    if named:
        key = next(iter(named))
        if any(value != named[key] for value in named.values()):
            raise CheckpointError(f"config.json: {' and '.join(named)} name different layers; one of them is wrong")
        made["target_layer_ids"] = read_layer_ids(named[key], key, first=-1)
    elif depth is not None:
        made["target_layer_ids"] = read_layer_ids(low_middle_high(depth), "the default layers", first=-1)
    if (count := config.get("num_aux_hidden_states")) is not None:
        num_named = len(made.get("target_layer_ids", (1, 2, 3)))
        if whole_number(count, "num_aux_hidden_states") != num_named:
            raise CheckpointError(f"config.json: num_aux_hidden_states is {count}, but {num_named} layers are read")
    return made | translate_chain(config, backbone)


def rename(name: str) -> str | None:
    """Return the canonical name: heads out of `logit_head.`, `midlayer.` is layer 0; t2d is training's."""
    if name == "t2d" or name.endswith("rotary_emb.inv_freq"):
        return None
    name = name.removeprefix("model.").removeprefix("logit_head.")
    return f"layers.0.{name.removeprefix('midlayer.')}" if name.startswith("midlayer.") else name
