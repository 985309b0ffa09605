"""The keys of a drafter's config.json: what is read, what says nothing about the arithmetic, and refusing the rest.

The rule, for every dialect: a key is read by the translation, or known to change nothing, or null or false, which asks
for nothing; any other key is refused by name, since what it would change cannot be known. No torch.
"""

from collections.abc import Collection, Iterable
from typing import Any

from core.errors import CheckpointError

Config = dict[str, Any]

# What transformers writes beside the arithmetic: bookkeeping, generation, initialisation.
HARMLESS = frozenset(
    """
    _name_or_path _attn_implementation _attn_implementation_autoset add_cross_attention architectures
    attention_dropout attn_implementation auto_map bad_words_ids base_model_ep_plan base_model_pp_plan
    base_model_tp_plan begin_suppress_tokens bos_token_id chunk_size_feed_forward cross_attention_hidden_size
    decoder_start_token_id diversity_penalty do_sample dtype early_stopping encoder_no_repeat_ngram_size eos_token_id
    exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id has_no_defaults_at_init
    id2label initializer_range is_decoder is_encoder_decoder label2id length_penalty max_length max_window_layers
    min_length model_type no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_attentions
    output_hidden_states output_scores pad_token_id prefix pretraining_tp problem_type pruned_heads
    remove_invalid_values repetition_penalty return_dict return_dict_in_generate sep_token_id suppress_tokens
    task_specific_params temperature tf_legacy_loss tie_encoder_decoder tie_word_embeddings tokenizer_class top_k top_p
    torch_dtype torchscript transformers_version typical_p use_bfloat16 use_cache
    """.split()  # noqa: SIM905 - a list of a hundred lines reads worse
)
# Training's own, wherever a trainer leaves it.
TRAINING = frozenset(
    """
    ce_loss_alpha confidence_head_alpha draft_num_hidden_layers embed_requires_grad enable_sp_ulysses l1_loss_alpha
    loss_decay_gamma max_anchors num_anchors shares_target_embeddings step_loss_decay target_model_name_or_path
    target_model_type target_text_model_type
    """.split()  # noqa: SIM905
)


def check_keys(config: Config, known: Collection[str], where: str = "config.json") -> None:
    """Raise CheckpointError naming the first key that is neither `known`, nor harmless, nor asks for nothing."""
    if "quantization_config" in config or "compression_config" in config:
        key = "quantization_config" if "quantization_config" in config else "compression_config"
        raise CheckpointError(f"{where}: quantised checkpoints ({key}) are not supported; take the unquantised one")
    for key, value in config.items():
        if key in known or key in HARMLESS or key in TRAINING or value is None or value is False:
            continue
        raise CheckpointError(
            f"{where}: key {key!r} is not understood (its value is {_short(value)}), and it may change what the "
            "drafter computes; if it does not, delete it from the file"
        )


def check_neutral(config: Config, neutral: dict[str, tuple[object, ...]], where: str = "config.json") -> None:
    """Raise CheckpointError for a key of `neutral` whose value is neither null nor one of those that change nothing."""
    for key, values in neutral.items():
        value = config.get(key)
        if value is not None and value not in values:
            raise CheckpointError(f"{where}: {key} is {_short(value)}, which is not supported; {_or(values)} is")


def section(config: Config, key: str) -> Config:
    """Return the table that `key` holds, {} if it is missing or null; raises CheckpointError if it is no table."""
    value = config.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise CheckpointError(f"config.json: {key} must hold a JSON object, got {_short(value)}")
    return value


def required(config: Config, key: str, where: str = "config.json", why: str = "") -> Any:
    """Return the value of `key`; raises CheckpointError if it is missing or null."""
    if config.get(key) is None:
        raise CheckpointError(f"{where}: {key} is missing{f'; {why}' if why else ''}")
    return config[key]


def whole_number(value: object, key: str) -> int:
    """Return `value` if it is a whole number; raises CheckpointError naming `key`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise CheckpointError(f"config.json: {key} must be a whole number, got {_short(value)}")
    return value


def size(value: object, key: str) -> int:
    """Return `value` if it is a whole number of at least 1; raises CheckpointError naming `key`."""
    if whole_number(value, key) < 1:
        raise CheckpointError(f"config.json: {key} must be at least 1, got {value}")
    return whole_number(value, key)


def flag(config: Config, key: str, default: bool) -> bool:
    """Return the boolean under `key`, `default` if it is missing or null; raises CheckpointError for anything else."""
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise CheckpointError(f"config.json: {key} must be true or false, got {_short(value)}")
    return value


def one_of(places: Iterable[tuple[str, Config]], key: str) -> Any:
    """Return the value of `key` from the places (name, table) that may hold it, None if none does.

    Raises CheckpointError if two places disagree.
    """
    found = [(name, table[key]) for name, table in places if table.get(key) is not None]
    for name, value in found[1:]:
        if value != found[0][1]:
            raise CheckpointError(
                f"{key} is {_short(found[0][1])} in {found[0][0]} and {_short(value)} in {name}; one of them is wrong"
            )
    return found[0][1] if found else None


def architectures(config: Config) -> tuple[str, ...]:
    """Return the architectures that the file names, () if it names none."""
    named = config.get("architectures")
    return tuple(str(each) for each in named) if isinstance(named, list) else ()


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _or(values: tuple[object, ...]) -> str:
    return " or ".join(map(repr, values))
