"""Write trained networks as Hugging Face checkpoints in bf16; files appear whole, so a reader may load at any time."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import torch
from tokenizers import Tokenizer

from models import checkpoint
from models.generation_config import GENERATION_CONFIG
from models.qwen3 import Qwen3, Qwen3Config
from training.chatml import END, END_OF_TEXT, token_id
from training.tokenizer import save_tokenizer

# Of who asks for none: so small a model leaves much to unlikely tokens, and one of them spoils a greeting.
TEMPERATURE = 0.7


def target_json(config: Qwen3Config, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return config.json of a target."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        **shape_json(config),
        "bos_token_id": None,
        "eos_token_id": token_id(tokenizer, END),
        "pad_token_id": token_id(tokenizer, END_OF_TEXT),
        "use_cache": True,
        "dtype": "bfloat16",
    }


def shape_json(config: Qwen3Config) -> dict[str, Any]:
    """Return the keys of a Qwen3 shape, rope in the form of transformers 5 and of older readers."""
    return {
        **msgspec.structs.asdict(config),
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "layer_types": ["full_attention"] * config.num_hidden_layers,
        "use_sliding_window": False,
        "sliding_window": None,
    }


def export_target(folder: Path, network: Qwen3, tokenizer: Tokenizer) -> None:
    """Write the target with its tokenizer; files appear whole. Raises OSError."""
    with replaced(folder) as partial:
        tensors = {
            name if name.startswith("lm_head") else f"model.{name}": tensor
            for name, tensor in checkpoint.split_fused(network).items()
        }
        checkpoint.save(partial, target_json(network.config, tokenizer), tensors, torch.bfloat16)
        save_tokenizer(tokenizer, partial, network.config.max_position_embeddings)
        generation = {
            "eos_token_id": token_id(tokenizer, END),
            "pad_token_id": token_id(tokenizer, END_OF_TEXT),
            "do_sample": True,
            "temperature": TEMPERATURE,
        }
        (partial / GENERATION_CONFIG).write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """Give a folder for files, which replace those of `folder` once all are written; raises OSError naming it."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as partial:
            yield Path(partial)
            replace_files(Path(partial), folder)
    except OSError as error:
        raise OSError(f"{folder} cannot be written: {error}") from error


def replace_files(source: Path, folder: Path) -> None:
    """Move finished files over old ones, each at once."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        path.chmod(0o644)
        shutil.move(path, folder / path.name)
