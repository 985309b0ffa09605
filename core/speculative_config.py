"""vLLM's --speculative-config JSON as settings of ours, so that a command line of theirs can be kept.

What it says must be what happens: a field or value that is not built is refused by name, never left unheard. vLLM
verifies `num_speculative_tokens` drafts of every sequence in every step, so that number becomes the policy `fixed`;
`num_speculative_tokens_per_batch_size` becomes `batch_table`, `enable_adaptive_verification` `load_adaptive`. A method
may also be a drafter that an installed package has registered. Fields: vllm/config/speculative.py (vLLM 0.33).
"""

import json
from collections.abc import Callable
from typing import Any

from core.config import nearest
from core.errors import ConfigError
from core.registry import DRAFTERS

# Methods whose model is a drafter's checkpoint, which says itself how much it drafts.
DRAFTERS_WITH_WIDTH = ("dspark", "dflash", "eagle3")
# Methods whose model is a checkpoint; its kind has the method's name.
CHECKPOINTS = (*DRAFTERS_WITH_WIDTH, "draft_model")
# Methods that draft.
DRAFTING = (*CHECKPOINTS, "ngram", "suffix")
METHODS = (*DRAFTING, "none")
OTHER_METHODS = (
    "custom_class",
    "eagle",
    "medusa",
    "mlp_speculator",
    "mtp",
)

# Fields we honour, and for which method.
HONOURED = {
    "method": METHODS,
    "model": CHECKPOINTS,
    "revision": CHECKPOINTS,
    "num_speculative_tokens": DRAFTING,
    "prompt_lookup_max": ("ngram",),
    "prompt_lookup_min": ("ngram",),
    "num_speculative_tokens_per_batch_size": DRAFTING,
    "enable_adaptive_verification": DRAFTING,
    "suffix_decoding_max_cached_requests": ("suffix",),
    "suffix_decoding_max_spec_factor": ("suffix",),
    "suffix_decoding_min_token_prob": ("suffix",),
}
# Of a drafter that an installed package has registered: its name, and how much to verify.
HONOURED_BY_PLUGINS = (
    "method",
    "num_speculative_tokens",
    "num_speculative_tokens_per_batch_size",
    "enable_adaptive_verification",
)
# Fields of vLLM that are not built, with the values besides null that ask for what specd does anyway.
NOT_BUILT: dict[str, tuple[object, ...]] = {
    "attention_backend": (),
    "code_revision": (),
    "disable_by_batch_size": (),
    "disable_eagle_block_drop": (False,),
    "disable_padded_drafter_batch": (False, True),
    "draft_load_config": (),
    "draft_sample_method": ("probabilistic",),
    "draft_tensor_parallel_size": (1,),
    "dspark_draft_topk": (),
    "enforce_eager": (True,),
    "index_share_for_mtp_iteration": (),
    "kv_cache_dtype": ("auto",),
    "max_model_len": (),
    "moe_backend": (),
    "parallel_drafting": (False,),
    "quantization": (),
    "rejection_sample_method": ("standard",),
    "speculative_token_tree": (),
    "suffix_decoding_max_tree_depth": (),
    "synthetic_acceptance_length": (),
    "synthetic_acceptance_rates": (),
    "tensor_parallel_size": (1,),
    "use_heterogeneous_vocab": (False,),
    "use_local_argmax_reduction": (False,),
}
# vLLM's window where neither bound of prompt lookup is given.
DEFAULT_LOOKUP = 5
# The kind of drafter that a checkpoint is, by its name and revision.
KindOf = Callable[[str, str | None], str]
ROW_LEN = 3


def speculative_flags(text: str, kind_of: KindOf | None = None) -> dict[str, object]:
    """Return what vLLM's JSON says as "section.field" values; raises ConfigError for what cannot be honoured.

    kind_of finds the method of a model where none is given, as vLLM does; without it, a method must be given.
    """
    given = _read(text)
    model, revision = given.get("model"), given.get("revision")
    if kind_of is not None and "method" not in given and isinstance(model, str) and model != "ngram":
        given["method"] = kind_of(model, revision if isinstance(revision, str) else None)
    method = _method(given)
    for name, value in given.items():
        _check_field(name, value, method)
    if method == "none":
        return {"drafter.kind": "none", "policy.kind": "off"}
    flags = DRAFTER_FLAGS[method](given) if method in DRAFTER_FLAGS else {"drafter.kind": method}
    return flags | _policy(given, method)


def _read(text: str) -> dict[str, Any]:
    try:
        given = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"--speculative-config is not valid JSON: {error}; got {text!r}") from error
    if not isinstance(given, dict):
        raise ConfigError(f"--speculative-config must be a JSON object, got {text!r}")
    # null means for vLLM what leaving the field out means.
    return {name: value for name, value in given.items() if value is not None}


def _method(given: dict[str, Any]) -> str:
    # vLLM takes the model's name for the method where it can: "ngram" is one such name.
    method = given.get("method", "ngram" if given.get("model") == "ngram" else None)
    if method in METHODS:
        return str(method)
    plugins = DRAFTERS.plugins()
    if method in plugins:
        return str(method)
    supported = f"specd has {', '.join((*METHODS, *plugins))}"
    if method is None:
        raise ConfigError(f"--speculative-config needs a method; {supported}")
    if method in OTHER_METHODS:
        raise ConfigError(f"--speculative-config: method {method!r} is not built; {supported}")
    raise ConfigError(f"--speculative-config: unknown method {method!r}; {nearest(str(method), [*METHODS, *plugins])}")


def _check_field(name: str, value: object, method: str) -> None:
    if name in HONOURED:
        honoured = method in HONOURED[name] if method in METHODS else name in HONOURED_BY_PLUGINS
        if not honoured and (name, value) != ("model", method):
            raise ConfigError(f"--speculative-config: {name} has no meaning for method {method!r}")
    elif name in NOT_BUILT:
        if not any(value == same and type(value) is type(same) for same in NOT_BUILT[name]):
            raise ConfigError(f"--speculative-config: {name} is not supported by specd, got {value!r}; leave it out")
    else:
        known = nearest(name, [*HONOURED, *NOT_BUILT])
        raise ConfigError(f"--speculative-config: unknown field {name!r}; {known}")


def _ngram(given: dict[str, Any]) -> dict[str, object]:
    if "num_speculative_tokens" not in given:
        raise ConfigError("--speculative-config: method 'ngram' needs num_speculative_tokens")
    low, high = given.get("prompt_lookup_min"), given.get("prompt_lookup_max")
    if low is None and high is None:
        low = high = DEFAULT_LOOKUP
    return {
        "drafter.kind": "ngram",
        "drafter.max_drafts": given["num_speculative_tokens"],
        "drafter.min_ngram": high if low is None else low,
        "drafter.max_ngram": low if high is None else high,
    }


def _checkpoint(given: dict[str, Any]) -> dict[str, object]:
    method = given["method"]
    if "model" not in given:
        raise ConfigError(f"--speculative-config: method {method!r} needs model, the drafter's folder or Hub id")
    revision = {"drafter.revision": given["revision"]} if "revision" in given else {}
    return {"drafter.kind": method, "drafter.path": given["model"], **revision}


def _suffix(given: dict[str, Any]) -> dict[str, object]:
    """Other than vLLM, which then keeps 10000, no answers are kept for other requests unless somebody says so."""
    names = {
        "num_speculative_tokens": "max_drafts",
        "suffix_decoding_max_cached_requests": "recent_answers",
        "suffix_decoding_max_spec_factor": "max_spec_factor",
        "suffix_decoding_min_token_prob": "min_token_prob",
    }
    told = {f"drafter.{ours}": given[name] for name, ours in names.items() if name in given}
    return {"drafter.kind": "suffix", **told}


def _draft_model(given: dict[str, Any]) -> dict[str, object]:
    if "num_speculative_tokens" not in given:
        raise ConfigError("--speculative-config: method 'draft_model' needs num_speculative_tokens")
    return {**_checkpoint(given), "drafter.max_drafts": given["num_speculative_tokens"]}


DRAFTER_FLAGS = {"ngram": _ngram, "suffix": _suffix, "draft_model": _draft_model} | dict.fromkeys(
    DRAFTERS_WITH_WIDTH, _checkpoint
)


def _capped(table: object, most: object) -> object:
    """Return the rows of a batch table in order, none above num_speculative_tokens, as vLLM reads them."""
    if not isinstance(table, list) or not all(isinstance(row, list) and len(row) == ROW_LEN for row in table):
        raise ConfigError(
            "--speculative-config: num_speculative_tokens_per_batch_size must be rows of [first, last, tokens], "
            f"got {table!r}"
        )
    if not all(isinstance(number, int) for row in table for number in row) or not isinstance(most, int):
        # Settings refuse what is no number, by name.
        return table
    return sorted([first, last, min(tokens, most)] for first, last, tokens in table)


def _policy(given: dict[str, Any], method: str) -> dict[str, object]:
    adaptive = given.get("enable_adaptive_verification", False)
    if not isinstance(adaptive, bool):
        raise ConfigError(f"--speculative-config: enable_adaptive_verification must be a boolean, got {adaptive!r}")
    if (table := given.get("num_speculative_tokens_per_batch_size")) is not None:
        if adaptive:
            raise ConfigError(
                "--speculative-config: num_speculative_tokens_per_batch_size and enable_adaptive_verification are two "
                "policies; give one of them"
            )
        return {"policy.kind": "batch_table", "policy.lengths": _capped(table, given.get("num_speculative_tokens"))}
    if adaptive:
        if method in DRAFTERS_WITH_WIDTH and "num_speculative_tokens" in given:
            raise ConfigError(
                f"--speculative-config: with enable_adaptive_verification a {method} checkpoint says itself how much "
                "it drafts; leave num_speculative_tokens out"
            )
        return {"policy.kind": "load_adaptive"}
    if "num_speculative_tokens" in given:
        return {"policy.kind": "fixed", "policy.length": given["num_speculative_tokens"]}
    return {}
