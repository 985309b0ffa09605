"""All randomness of a round, drawn before its drafts: keyed by request, so that no batch can shift it."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from core.planning import I32, BoolArray
from core.random import round_uniforms
from core.tensors import CoupledKeys
from core.types import Request
from engine.anchors import I64, anchors_of
from engine.device import CPU, upload, upload_all
from engine.draws_ahead import DrawsAhead
from engine.sequence import Sequence
from engine.target_draws import TargetDraws
from kernels.dispatch import takes_triton
from kernels.noise import coupled_keys, gumbel_noise


class Draws(NamedTuple):
    """Where the numbers of rounds come from: of plain ones, and of those with drafts."""

    plain: TargetDraws
    ahead: DrawsAhead


@dataclass(frozen=True, slots=True)
class RoundNoise:
    """The numbers a round may use (docs/exactness.md).

    draft     f32 [B, G] uniform in [0, 1)
    verdict   f32 [B, G + 1] uniform in [0, 1)
    coupled   bool [B]; whose tokens gumbel draws, in drafting and in verification alike
    gumbel    f32 [B, G + 1, V], filled where something will be drawn; on a GPU what names it; None if nobody is coupled
    is_coupled   what `coupled` holds, known to the host
    """

    draft: Tensor
    verdict: Tensor
    coupled: Tensor
    gumbel: Tensor | CoupledKeys | None
    is_coupled: BoolArray

    def of(self, index: Tensor) -> "RoundNoise":
        """Return the numbers of some sequences, index i64 [b] on the host."""
        if len(index) == len(self.draft):
            return self
        is_coupled, index = self.is_coupled[index.numpy()], upload(index, self.draft.device)
        gumbel = None if self.gumbel is None else some_noise(self.gumbel, index)
        return RoundNoise(self.draft[index], self.verdict[index], self.coupled[index], gumbel, is_coupled)


def draw_noise(
    sequences: tuple[Sequence, ...],
    draft_len: I32,
    width: int,
    vocab_size: int,
    draws: Draws,
    device: torch.device = CPU,
) -> RoundNoise:
    """Return the noise of a round with up to `width` drafts, on `device`; draft_len i32 [B] says how many are wanted.

    A round of another width than 0 is as wide as what is made ahead.
    """
    if all(sequence.request.sampling.temperature == 0.0 for sequence in sequences):
        # A greedy law has one token, which any number draws.
        size = len(sequences)
        coupled = torch.zeros(size, dtype=torch.bool, device=device)
        zeros = torch.zeros(size, width + 1, device=device)
        return RoundNoise(zeros[:, :width], zeros, coupled, None, np.zeros(size, dtype=np.bool_))
    is_coupled = np.array([uses_gumbel(sequence.request) for sequence in sequences])
    if not width and not is_coupled.any():
        verdict = upload(draws.plain.of(sequences), device)
        return RoundNoise(verdict[:, :0], verdict, upload(is_coupled, device), None, is_coupled)
    at = anchors_of(sequences)
    made = draws.ahead.of(at) if width else round_uniforms(at.nonces, at.anchors, at.attempts, 0)
    draft, verdict = (upload(numbers, device) for numbers in made)
    coupled = upload(is_coupled, device)
    if not is_coupled.any():
        return RoundNoise(draft, verdict, coupled, None, is_coupled)
    if device.type != "cpu" or takes_triton(coupled):
        return RoundNoise(draft, verdict, coupled, name_noise(sequences, at.anchors, device), is_coupled)
    # One number for every token of the vocabulary is dear: none are made where nobody drafts that far.
    num_draws = np.where(is_coupled, draft_len + 1, 0)
    index, place = np.nonzero(np.arange(width + 1) < num_draws[:, None])
    requests = [sequences[b].request for b in index.tolist()]
    noise = gumbel_noise(
        np.array([request.coupled_key for request in requests], dtype=np.uint64),
        (at.anchors[index] + 1 + place)[:, None],
        np.array([request.n_index for request in requests], dtype=np.int64),
        vocab_size,
        device,
    )
    shape = (len(sequences), width + 1, vocab_size)
    if len(index) == shape[0] * shape[1]:
        return RoundNoise(draft, verdict, coupled, noise.view(shape), is_coupled)
    gumbel = torch.zeros(shape, device=device)
    gumbel[upload(index, device), upload(place, device)] = noise[:, 0]
    return RoundNoise(draft, verdict, coupled, gumbel, is_coupled)


def some_noise(gumbel: Tensor | CoupledKeys, index: Tensor) -> Tensor | CoupledKeys:
    """Return the coupled noise of some sequences, index i64 [b] on its device."""
    return gumbel.of(index) if isinstance(gumbel, CoupledKeys) else gumbel[index]


def name_noise(sequences: tuple[Sequence, ...], anchors: I64, device: torch.device) -> CoupledKeys:
    """Return what names the noise after each anchor i64 [B], by one copy; of who is not coupled it is never drawn."""
    keys = np.array([sequence.request.coupled_key or 0 for sequence in sequences], dtype=np.uint64)
    children = np.array([sequence.request.n_index for sequence in sequences], dtype=np.int64)
    named = coupled_keys(keys, children, torch.from_numpy(anchors + 1))
    return CoupledKeys(*upload_all((named.low, named.high, named.child, named.first), device))


def uses_gumbel(request: Request) -> bool:
    """Tell whether coupled noise decides a request's tokens; a greedy answer is the same under either verifier."""
    return request.coupled_key is not None and request.sampling.temperature > 0.0
