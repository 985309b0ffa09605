"""How drafts fare in a simulation: for every anchor of so many texts, how many would be accepted, and the evidence.

Recorded, or drawn from a table. What a policy does shifts where steps begin, so texts are looked up by place.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from bench.replay.recording import DOMAINS, read_recording
from bench.simulate.settings import Acceptance, Drafting
from core.errors import ConfigError
from core.planning import F32, I32, Calibration

MODELLED = "modelled"
# Texts of a domain that are drawn from a table, and anchors of each.
DRAWN_TEXTS, DRAWN_LENGTH = 96, 512
# Nothing is as certain as this, so that logits stay finite.
LEAST_DOUBT = 1e-4


class Texts(Struct, frozen=True):
    """Texts with a block of G drafts at every anchor.

    accepted    i32 [N, T], 0..G; of a whole block drafted after so many tokens of the answer
    evidence    f32 [N, T, G]; logits of conditional acceptance, as the drafter gives them
    lengths     i32 [N]; anchors that each text has, beyond which it begins anew
    prompt_len  i32 [N]; tokens of each prompt, 0 where nobody recorded them
    asked       i32 [N]; most tokens that each answer might have had, None where nobody recorded them
    domains     which texts each domain has
    calibration what the drafter knows of its evidence; None takes it for the logit it should be
    """

    accepted: I32
    evidence: F32
    lengths: I32
    prompt_len: I32
    domains: dict[str, NDArray[np.int64]]
    calibration: Calibration | None = None
    asked: I32 | None = None

    @property
    def width(self) -> int:
        """Drafts per block."""
        return self.evidence.shape[2]

    def look_up(self, texts: list[int], places: list[int]) -> tuple[I32, F32]:
        """Return accepted i32 [b] and evidence f32 [b, G] of blocks drafted after so many tokens of some texts."""
        index = np.array(texts)
        place = np.array(places) % self.lengths[index]
        return self.accepted[index, place], self.evidence[index, place]


def read_texts(wanted: Acceptance, seed: int) -> Texts:
    """Return what the settings name, its acceptance scaled; raises ConfigError."""
    if wanted.domains:
        texts = draw_texts(wanted.domains, seed)
    elif wanted.recording == MODELLED:
        texts = modelled_texts()
    else:
        texts = read_recorded(Path(wanted.recording))
    return rescaled(texts, wanted.scale, seed)


def modelled_texts() -> Texts:
    """Return the requests of bench/replay: modelled on the accepted lengths of a paper."""
    domains: dict[str, NDArray[np.int64]] = {}
    parts, start = [], 0
    for name in DOMAINS:
        part = read_recording((name,))
        domains[name] = np.arange(start, start + len(part.accepted))
        start += len(part.accepted)
        parts.append(part)
    accepted = np.concatenate([part.accepted for part in parts]).astype(np.int32)
    evidence = np.concatenate([part.evidence for part in parts])
    size, length = accepted.shape
    return Texts(accepted, evidence, np.full(size, length, np.int32), np.zeros(size, np.int32), domains)


def draw_texts(domains: Mapping[str, Drafting], seed: int) -> Texts:
    """Draw texts from a table: a difficulty that goes along the text, and drafts accepted by it.

    The mean chance at each position is met exactly over a domain's anchors, whatever the spread: logits are shifted
    until it is.
    """
    random = np.random.default_rng([seed, 1])
    accepted, evidence, places = [], [], {}
    for number, (name, law) in enumerate(sorted(domains.items())):
        shape = (DRAWN_TEXTS, DRAWN_LENGTH, len(law.accept))
        ease = _walk(random, shape[:2], law.persistence) * law.spread
        logit = _shifted(ease, np.array(law.accept))
        passes = random.random(shape) < _chance(logit)
        accepted.append(np.logical_and.accumulate(passes, axis=2).sum(2, dtype=np.int32))
        evidence.append((logit + law.confidence * random.standard_normal(shape)).astype(np.float32))
        places[name] = np.arange(number * DRAWN_TEXTS, (number + 1) * DRAWN_TEXTS)
    size = len(places) * DRAWN_TEXTS
    lengths, prompts = np.full(size, DRAWN_LENGTH, np.int32), np.zeros(size, np.int32)
    return Texts(np.concatenate(accepted), np.concatenate(evidence), lengths, prompts, places)


def rescaled(texts: Texts, scale: float, seed: int) -> Texts:
    """Return the texts with conditional acceptance, at every position, times `scale`; at most nearly certain.

    Below 1 accepted drafts are rejected by chance; above it rejected ones are accepted, and what then follows, which
    nobody saw, is drawn by the position's own mean. The evidence stays: the drafter does not know.
    """
    if scale == 1.0:
        return texts
    random = np.random.default_rng([seed, 2])
    accepted, width = texts.accepted, texts.width
    place = np.arange(width)
    trials = np.array([(accepted >= j).sum() for j in place], dtype=np.float64)
    mean = np.array([(accepted > j).sum() for j in place]) / np.maximum(trials, 1.0)
    wanted = np.minimum(mean * scale, 1.0 - LEAST_DOUBT)
    draw = random.random((*accepted.shape, width))
    was_accepted, was_rejected = place < accepted[..., None], place == accepted[..., None]
    kept = np.divide(wanted, mean, out=np.ones_like(mean), where=mean > wanted)
    turned = np.where(wanted > mean, (wanted - mean) / np.maximum(1.0 - mean, LEAST_DOUBT), 0.0)
    passes = np.where(was_accepted, draw < kept, np.where(was_rejected, draw < turned, draw < wanted))
    new = np.logical_and.accumulate(passes, axis=2).sum(2, dtype=np.int32)
    return replace(texts, accepted=new)


def read_recorded(path: Path) -> Texts:
    """Return what bench.simulate.record wrote; raises ConfigError if that cannot be read."""
    if not path.is_file():
        raise ConfigError(f"acceptance.recording must be {MODELLED!r} or a recording's file, got {str(path)!r}")
    try:
        with safe_open(path, framework="numpy") as file:
            names = (file.metadata() or {})["domains"].split(",")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        slope, intercept = arrays["calibration"].tolist()
        domains = {name: np.flatnonzero(arrays["domain"] == number) for number, name in enumerate(names)}
        known = Calibration(tuple(slope), tuple(intercept))
        return Texts(
            accepted=arrays["accepted"],
            evidence=arrays["evidence"],
            lengths=arrays["lengths"],
            prompt_len=arrays["prompt_len"],
            domains=domains,
            calibration=known,
            asked=arrays.get("asked"),
        )
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise ConfigError(f"{path} is no recording of this version: {error}") from error


def _walk(random: np.random.Generator, shape: tuple[int, int], persistence: float) -> NDArray[np.float64]:
    """Return stationary walks of standard deviation 1, [N, T]: half their variance is the whole text's."""
    own = random.standard_normal(shape)
    for t in range(1, shape[1]):
        own[:, t] = persistence * own[:, t - 1] + (1.0 - persistence**2) ** 0.5 * own[:, t]
    whole = random.standard_normal((shape[0], 1))
    return (own + whole) / 2**0.5


def _shifted(ease: NDArray[np.float64], accept: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return logits [N, T, G] so that drafts that are reached are accepted with the chances `accept` [G] on average."""
    logits = np.empty((*ease.shape, len(accept)))
    reach = np.ones_like(ease)
    for j, wanted in enumerate(accept):
        low, high = -30.0, 30.0
        for _ in range(50):
            middle = (low + high) / 2
            mean = (reach * _chance(ease + middle)).sum() / reach.sum()
            low, high = (middle, high) if mean < wanted else (low, middle)
        logits[..., j] = ease + high
        reach = reach * _chance(logits[..., j])
    return logits


def _chance(logit: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1.0 / (1.0 + np.exp(-logit))
