"""generation_config.json beside a target: how its makers draw from it where nobody says otherwise. No torch.

Taken is what vLLM takes under `--generation-config auto` (vllm/config/model.py, get_diff_sampling_param), but for
max_new_tokens; do_sample is looked at by neither. Values are those that the file has, not those of transformers.
"""

from pathlib import Path
from typing import Any, get_type_hints

import msgspec
from msgspec import Struct

from core.errors import CheckpointError
from core.types import SamplingDefaults
from models.config_json import read_object

GENERATION_CONFIG = "generation_config.json"
# Keys by which other libraries change what is generated, with the values by which they change nothing: those of
# transformers' GenerationConfig, and the two penalties that some files have beside them.
NOT_TAKEN: dict[str, tuple[object, ...]] = {
    "bad_words_ids": (None, []),
    "begin_suppress_tokens": (None, []),
    "constraints": (None, []),
    "dola_layers": (None,),
    "encoder_repetition_penalty": (None, 1),
    "epsilon_cutoff": (None, 0),
    "eta_cutoff": (None, 0),
    "exponential_decay_length_penalty": (None,),
    "force_words_ids": (None, []),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None, []),
    "frequency_penalty": (None, 0),
    "guidance_scale": (None, 1),
    # 20 was the default of transformers before version 5, which no file means.
    "max_length": (None, 20),
    "max_new_tokens": (None,),
    "max_time": (None,),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "no_repeat_ngram_size": (None, 0),
    "num_beams": (None, 1),
    "penalty_alpha": (None, 0),
    "presence_penalty": (None, 0),
    "sequence_bias": (None, [], {}),
    "stop_strings": (None, []),
    "suppress_tokens": (None, []),
    "token_healing": (None, False),
    "top_h": (None,),
    "typical_p": (None, 1),
    "watermarking_config": (None,),
}


class GenerationConfig(Struct, frozen=True):
    """What is taken from the file, and the keys that would change answers and are not taken, in its order."""

    defaults: SamplingDefaults
    not_taken: tuple[str, ...]


def read_generation_config(folder: Path) -> GenerationConfig:
    """Read how a target is drawn from by default; what the file does not say, or no file does, is plain.

    Raises CheckpointError naming the file, and the key if its value is none that a request could have.
    """
    fields, taken = generation_fields(folder), {}
    for name, wanted in get_type_hints(SamplingDefaults, include_extras=True).items():
        value = fields.get(name)
        if value is None:
            continue
        try:
            # -1 is vLLM's word for no limit.
            taken[name] = msgspec.convert(0 if name == "top_k" and value == -1 else value, wanted)
        except msgspec.ValidationError as error:
            raise CheckpointError(
                f"{folder / GENERATION_CONFIG}: {name}: {error}, got {value!r}; "
                'correct it, or leave the file\'s values out with server.sampling_defaults = "plain"'
            ) from error
    not_taken = (name for name, value in fields.items() if name in NOT_TAKEN and value not in NOT_TAKEN[name])
    return GenerationConfig(SamplingDefaults(**taken), tuple(not_taken))


def generation_fields(folder: Path) -> dict[str, Any]:
    """Return what the file says, {} where there is none; raises CheckpointError if it holds no JSON object."""
    path = folder / GENERATION_CONFIG
    return read_object(path) if path.is_file() else {}
