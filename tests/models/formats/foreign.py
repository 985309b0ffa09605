"""Writers of the formats in the wild: a fixture in DeepSpec's form becomes the same drafter in another's."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from paths import FIXTURES

# Fixtures with sequential heads.
DSPARKS = ("dspark_vanilla", "dspark_gated", "dspark_rnn")
BORROWED = ("embed_tokens.weight", "lm_head.weight")
BACKBONE = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim"),
    *("num_key_value_heads", "rms_norm_eps", "rope_parameters", "max_position_embeddings", "hidden_act"),
    *("attention_bias", "attention_dropout", "initializer_range", "use_cache"),
)
HEADS = ("markov_rank", "markov_head_type", "enable_confidence_head", "confidence_head_with_markov")
# Chosen so that neither half of the rows is where it was.
DRAFT_VOCABULARY = 100


def deepspec(name):
    """Return config and tensors of a fixture."""
    folder = FIXTURES / name
    return json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")


def write(folder: Path, config, tensors) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


def backbone(config):
    return {key: config[key] for key in BACKBONE}


def borrowing(config, tensors):
    """Return the tensors without what is the target's: a reduced head is the drafter's own."""
    is_reduced = config.get("draft_vocab_size", config["vocab_size"]) < config["vocab_size"]
    return without(tensors, BORROWED[:1] if is_reduced else BORROWED)


def without(tensors, names):
    return {name: tensor for name, tensor in tensors.items() if name not in names}


def zlab(config, tensors):
    made = {
        **backbone(config),
        "architectures": ["DFlashDraftModel"],
        "auto_map": {"AutoModel": "dflash.DFlashDraftModel"},
        "model_type": "qwen3",
        "layer_types": config["layer_types"],
        "use_sliding_window": False,
        "sliding_window": None,
        "max_window_layers": 5,
        "num_target_layers": config["num_target_layers"],
        "dflash_config": {key: config[key] for key in ("block_size", "mask_token_id", "target_layer_ids")},
    }
    return made, borrowing(config, tensors) | {"layers.0.self_attn.rotary_emb.inv_freq": torch.ones(12)}


def specforge_dflash(config, tensors):
    made, kept = zlab(config, tensors)
    inside = {**made["dflash_config"], "projector_type": "dflash", "attention_mode": "gqa", "shift_label": False}
    return {**made, "dflash_config": without(inside, ("block_size",)), "block_size": config["block_size"]}, kept


def specforge_dspark(config, tensors):
    made, kept = specforge_dflash(config, tensors)
    heads = {key: config[key] for key in HEADS}
    inside = {**made["dflash_config"], "projector_type": "dspark", "shift_label": True, "confidence_head_alpha": 1.0}
    nested = {
        f"logit_head.{name}" if name.startswith(("markov_head.", "confidence_head.")) else name: tensor
        for name, tensor in kept.items()
    }
    made |= {"draft_vocab_size": config.get("draft_vocab_size")}
    return {**made, "architectures": ["DSparkDraftModel"], "dflash_config": {**inside, **heads}}, nested


def speculators_block(config, tensors, kind):
    tokens = config["block_size"] - (kind == "dflash")
    made = {
        "architectures": [f"D{kind[1:].capitalize()}Speculator"],
        "auto_map": {"": "config.SpeculatorConfig"},
        "speculators_model_type": kind,
        "speculators_version": "0.5.0",
        "speculators_config": speculators_config(kind, tokens),
        "transformer_layer_config": {
            **backbone(config),
            "model_type": "qwen3",
            "layer_types": config["layer_types"],
            "use_sliding_window": False,
            "sliding_window": None,
        },
        "draft_vocab_size": config.get("draft_vocab_size", config["vocab_size"]),
        "target_hidden_size": None,
        "block_size": config["block_size"],
        "mask_token_id": config["mask_token_id"],
        "aux_hidden_state_layer_ids": [layer + 1 for layer in config["target_layer_ids"]],
        "sample_from_anchor": kind == "dspark",
        "sliding_window_non_causal": False,
        **({key: config[key] for key in HEADS} if kind == "dspark" else {"projector_type": "dflash", "emb_dim": 256}),
    }
    return made, with_verifier(tensors, config)


def speculators_config(kind, tokens):
    method = {"proposal_type": "greedy", "speculative_tokens": tokens, "verifier_accept_k": 1}
    other = {"proposal_type": "other", "speculative_tokens": 1}
    verifier = {"name_or_path": "owner/verifier", "architectures": ["Qwen3ForCausalLM"]}
    return {
        "algorithm": kind,
        "proposal_methods": [other, method],
        "default_proposal_method": "greedy",
        "verifier": verifier,
    }


def with_verifier(tensors, config):
    hidden = config["hidden_size"]
    extra = {"verifier_norm.weight": torch.ones(hidden), "verifier_lm_head.weight": torch.ones(4, hidden)}
    return with_t2d(tensors | extra, config)


def plain_eagle():
    """Return DeepSpec's form of the drafter that EAGLE's formats hold: a Llama layer, three features, a small head."""
    config, tensors = deepspec("eagle3")
    kept = without(tensors, ("layers.0.self_attn.q_norm.weight", "layers.0.self_attn.k_norm.weight"))
    ids = torch.arange(DRAFT_VOCABULARY) * 2 + 3
    kept["fc.weight"] = kept["fc.weight"][:, : 3 * config["hidden_size"]]
    kept["lm_head.weight"] = kept["lm_head.weight"][ids]
    kept["d2t"] = ids - torch.arange(DRAFT_VOCABULARY)
    changes = {"model_type": "llama", "target_layer_ids": [1, 3, 4], "draft_vocab_size": DRAFT_VOCABULARY}
    return without(config, ("num_target_layers",)) | changes, kept


def midlayer(tensors):
    return {name.replace("layers.0.", "midlayer."): tensor for name, tensor in tensors.items()}


def with_t2d(tensors, config):
    mask = torch.zeros(config["vocab_size"], dtype=torch.bool)
    mask[torch.arange(len(tensors["d2t"])) + tensors["d2t"] if "d2t" in tensors else slice(None)] = True
    return tensors | {"t2d": mask}


def eagle(config, tensors):
    made = {
        **without(backbone(config), ("rope_parameters",)),
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "rope_theta": config["rope_parameters"]["rope_theta"],
        "draft_vocab_size": config["draft_vocab_size"],
        "pretraining_tp": 1,
        "torch_dtype": "float16",
    }
    return made, with_t2d(midlayer(tensors), config)


def specforge_eagle3(config, tensors):
    made, kept = eagle(config, tensors)
    ids = {"eagle_aux_hidden_state_layer_ids": config["target_layer_ids"], "use_aux_hidden_state": True}
    extra = {"eagle_config": ids, "norm_output": True, "num_aux_hidden_states": 3, "tie_word_embeddings": True}
    return {**made, "architectures": ["LlamaForCausalLMEagle3"], **extra, **norms(config)}, kept


def norms(config):
    return {name: config.get(name, False) for name in ("norm_before_residual", "norm_before_fc", "fc_norm")}


def speculators_eagle3(config, tensors):
    made = {
        "architectures": ["Eagle3Speculator"],
        "speculators_model_type": "eagle3",
        "speculators_config": speculators_config("eagle3", 7),
        "transformer_layer_config": {**backbone(config), "model_type": config["model_type"], "mlp_bias": False},
        "draft_vocab_size": config.get("draft_vocab_size", config["vocab_size"]),
        "eagle_aux_hidden_state_layer_ids": [layer + 1 for layer in config["target_layer_ids"]],
        **norms(config),
        "norm_output": config.get("feeds_normed", False),
        "embed_requires_grad": False,
    }
    return made, with_verifier(tensors, config)
