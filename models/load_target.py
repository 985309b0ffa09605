"""From a target's checkpoint to a network that is ready to run, with every mismatch refused by name."""

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from core.errors import CheckpointError, ConfigError
from core.registry import TARGET_LIBRARIES, TARGETS
from core.types import Numerics
from models.checkpoint import check_architecture, load_into, read_tensors
from models.config_json import read_config
from models.decoder import Decoder, DecoderConfig
from models.formats.translate import format_of
from models.generation_config import generation_fields
from models.network import for_inference
from models.target import Target, TargetConfig
from models.tensor_parallel import Share, own_part, share_of, sum_shares

# Those that specd computes itself.
TARGET_ARCHITECTURES = tuple(TARGETS.names())


def load_target(
    folder: Path,
    dtype: torch.dtype,
    numerics: Numerics = Numerics.FAST,
    share: Share | None = None,
    device: torch.device | None = None,
) -> Target:
    """Load a checkpoint for inference, weights cast to `dtype`; what specd does not compute itself, by transformers.

    share is the part of it that this process has, None: all; device is where it computes, None: the CPU. Raises
    CheckpointError, and ConfigError where this machine or installation cannot compute it in `numerics`, or it cannot be
    divided.
    """
    config = read_config(folder)
    architecture = target_architecture(config, folder)
    if (drafter := format_of(config)) is not None:
        raise CheckpointError(
            f"{folder} holds a drafter (format: {drafter}), no model that generates text by itself; "
            f"`specd inspect {folder}` says which kind it is"
        )
    check_unquantised(config, folder)
    if share is not None:
        return for_inference(_load_share(architecture, folder, config, share), dtype, device)
    if architecture not in TARGET_ARCHITECTURES:
        return _load_with_transformers(architecture, folder, config, dtype, numerics).to(device)
    return for_inference(_load_own(architecture, folder, config, numerics), dtype, device)


def load_frozen(folder: Path, dtype: torch.dtype) -> Target:
    """Load a checkpoint for drafters to be trained beside it: plain weights that gradients pass through.

    Raises CheckpointError, also for targets that specd does not compute itself.
    """
    config = read_config(folder)
    check_architecture(config, TARGET_ARCHITECTURES, folder)
    check_unquantised(config, folder)
    network = _load_own(target_architecture(config, folder), folder, config, Numerics.FAST)
    return network.to(dtype).eval().requires_grad_(False)


def _load_own(architecture: str, folder: Path, config: dict[str, Any], numerics: Numerics) -> Target:
    family: type[Target] = TARGETS.load(architecture)
    network = family.from_json(config, numerics)
    load_into(network, network.own_tensors(read_tensors(folder)), source=str(folder))
    return network


def _load_share(architecture: str, folder: Path, config: dict[str, Any], share: Share) -> Target:
    """Load one process's part of a checkpoint; raises ConfigError for a family that is not divided."""
    family: type[Target] | None = TARGETS.load(architecture) if architecture in TARGET_ARCHITECTURES else None
    if family is None or not issubclass(family, Decoder):
        divided = ", ".join(name for name in TARGET_ARCHITECTURES if issubclass(TARGETS.load(name), Decoder))
        raise ConfigError(
            f"engine.tensor_parallel {share.num_ranks} is not possible for {architecture}; it is for {divided}"
        )
    told = family.config_type.from_json(config)
    assert isinstance(told, DecoderConfig)
    network = family(share_of(told, share), Numerics.FAST)
    tensors = read_tensors(folder, partial(own_part, share=share))
    load_into(network, network.own_tensors(tensors), source=str(folder))
    sum_shares(network, share)
    return network


def read_target_config(folder: Path) -> TargetConfig:
    """Return what config.json says of a target that specd computes itself, weights unread; raises CheckpointError."""
    config = read_config(folder)
    check_architecture(config, TARGET_ARCHITECTURES, folder)
    family: type[Target] = TARGETS.load(target_architecture(config, folder))
    return family.config_type.from_json(config)


def target_architecture(config: dict[str, Any], folder: Path) -> str:
    """Return the one that config.json names: one of ours if any is; raises CheckpointError if it names none."""
    named = config.get("architectures") or []
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named) or not named:
        raise CheckpointError(f"{folder}: config.json must name its architectures, got {named!r}")
    return next((name for name in named if name in TARGET_ARCHITECTURES), named[0])


def _load_with_transformers(
    architecture: str, folder: Path, config: dict[str, Any], dtype: torch.dtype, numerics: Numerics
) -> Target:
    known = ", ".join(TARGET_ARCHITECTURES)
    if find_spec("transformers") is None:
        raise ConfigError(
            f"{folder}: {architecture} is none that specd computes itself ({known}); transformers may, "
            "but is not installed: pip install 'specd[hf]'"
        )
    try:
        target: Target = TARGET_LIBRARIES.load("transformers")(folder, config, dtype, numerics)
    except CheckpointError as error:
        raise CheckpointError(
            f"{folder}: {architecture} is none that specd computes itself ({known}), "
            f"and transformers cannot compute it for specd: {error}"
        ) from error
    return target


def check_unquantised(config: dict[str, Any], folder: Path) -> None:
    """Raise CheckpointError naming the method if the weights are stored quantised."""
    told = config.get("quantization_config") or config.get("text_config", {}).get("quantization_config")
    if told:
        method = told.get("quant_method", "unnamed") if isinstance(told, dict) else told
        raise CheckpointError(
            f"{folder}: quantised checkpoints (quantization_config, method {method!r}) are not supported; "
            "use one in bfloat16 or float32"
        )


def eos_token_ids(folder: Path) -> tuple[int, ...]:
    """Return the ids that end an answer, from generation_config.json, else config.json; () if neither says."""
    config = read_config(folder) | generation_fields(folder)
    eos = config.get("eos_token_id", config.get("text_config", {}).get("eos_token_id"))
    if eos is None:
        return ()
    return tuple(eos) if isinstance(eos, list) else (eos,)
