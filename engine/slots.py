"""Per-slot facts that every step needs as tensors: block tables, sampling parameters, stop ids, token counts.

Written once when a sequence takes its slot, indexed by slot afterwards, so that a step builds no table from Python
objects. What few requests ask for (bias, penalties) takes room only once somebody has asked.
"""

from collections.abc import Sequence as Listed
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from core.tensors import Edits, Processing
from core.types import Sampling
from engine.device import CPU, upload
from engine.sequence import Sequence

# Pads rows of token ids; no token has this id.
NO_TOKEN = -1
MAX_STOP_IDS = 72


@dataclass(frozen=True, slots=True)
class Terms:
    """What the requests of S sequences asked for.

    slots       i64 [S]
    processing  how their logits become laws
    stop_ids    i64 [S, K] padded with -1
    logprobs    how many alternatives each wants reported, None for none
    """

    slots: Tensor
    processing: Processing
    stop_ids: Tensor
    logprobs: tuple[int | None, ...]


class SlotTable:
    """Tensors with one row per slot; rows of free slots hold whatever the last sequence left there."""

    def __init__(self, num_slots: int, max_blocks: int, vocab_size: int, device: torch.device = CPU) -> None:
        self._device = device
        self._shape = (num_slots, vocab_size)
        self.block_tables = torch.zeros(num_slots, max_blocks, dtype=torch.int64, device=device)
        self.temperature = torch.ones(num_slots, device=device)
        self.top_k = torch.zeros(num_slots, dtype=torch.int64, device=device)
        self.top_p = torch.ones(num_slots, device=device)
        self.min_p = torch.zeros(num_slots, device=device)
        self.stop_ids = torch.full((num_slots, MAX_STOP_IDS), NO_TOKEN, dtype=torch.int64, device=device)
        self.repetition = torch.ones(num_slots, device=device)
        self.frequency = torch.zeros(num_slots, device=device)
        self.presence = torch.zeros(num_slots, device=device)
        self._bias_ids = torch.empty(num_slots, 0, dtype=torch.int64, device=device)
        self._bias = torch.empty(num_slots, 0, device=device)
        self._counts: Tensor | None = None
        self._in_prompt: Tensor | None = None
        # Output tokens already in the counts.
        self._num_counted = [0] * num_slots
        self._last: tuple[tuple[Sequence, ...], Terms] | None = None

    def open(self, sequence: Sequence, eos_ids: tuple[int, ...]) -> None:
        """Fill the slot's rows for a sequence that has just been admitted."""
        slot, sampling = sequence.slot, sequence.request.sampling
        self._last = None
        self.write_blocks((sequence,))
        self.temperature[slot] = sampling.temperature
        self.top_k[slot] = sampling.top_k
        self.top_p[slot] = sampling.top_p
        self.min_p[slot] = sampling.min_p
        ignores_eos = sampling.ignore_eos and sampling.grammar is None
        stops = (*sampling.stop_token_ids, *(() if ignores_eos else eos_ids))
        self.stop_ids[slot].fill_(NO_TOKEN)
        self.stop_ids[slot, : len(stops)] = upload(stops, self._device, torch.int64)
        self.repetition[slot] = sampling.repetition_penalty
        self.frequency[slot] = sampling.frequency_penalty
        self.presence[slot] = sampling.presence_penalty
        self._open_bias(slot, sampling)
        if has_penalty(sampling):
            self._open_counts(slot, sequence.request.prompt_ids)

    def write_blocks(self, sequences: Listed[Sequence]) -> None:
        """Copy sequences' blocks into their rows, whose rest becomes the null block; by a single copy."""
        if not sequences:
            return
        longest = max(len(sequence.blocks) for sequence in sequences)
        rows = np.zeros((len(sequences), 1 + longest), dtype=np.int64)
        for row, sequence in zip(rows, sequences, strict=True):
            row[0], row[1 : 1 + len(sequence.blocks)] = sequence.slot, sequence.blocks
        told = upload(rows, self._device)
        slots = told[:, 0].contiguous()
        self.block_tables.index_fill_(0, slots, 0)
        self.block_tables[:, :longest].index_copy_(0, slots, told[:, 1:])

    def terms(self, sequences: tuple[Sequence, ...]) -> Terms:
        """Return what `sequences` asked for; the same again while the same ones decode, unless their laws change."""
        if self._last and self._last[0] == sequences:
            return self._last[1]
        slots = upload([sequence.slot for sequence in sequences], self._device, torch.int64)
        logprobs = tuple(sequence.request.sampling.logprobs for sequence in sequences)
        terms = Terms(slots, self._processing(sequences, slots), self.stop_ids[slots], logprobs)
        self._last = (sequences, terms) if terms.processing.edits is None else None
        return terms

    def _processing(self, sequences: tuple[Sequence, ...], slots: Tensor) -> Processing:
        samplings = [sequence.request.sampling for sequence in sequences]
        truncates = any(s.top_k > 0 or s.top_p < 1.0 or s.min_p > 0.0 for s in samplings)
        is_edited = any(edits(s) for s in samplings)
        is_plain = not truncates and not is_edited and all(s.temperature == 1.0 for s in samplings)
        return Processing(
            self.temperature[slots],
            self.top_k[slots],
            self.top_p[slots],
            self.min_p[slots],
            is_plain,
            truncates,
            self._edits(sequences, slots) if is_edited else None,
            is_greedy=all(s.temperature == 0.0 for s in samplings),
        )

    def _edits(self, sequences: tuple[Sequence, ...], slots: Tensor) -> Edits:
        penalised = [sequence for sequence in sequences if has_penalty(sequence.request.sampling)]
        for sequence in penalised:
            self._count(sequence)
        min_left = [max(0, s.request.sampling.min_tokens - s.num_output) for s in sequences]
        counts, in_prompt = self._counts, self._in_prompt
        return Edits(
            self._bias_ids[slots],
            self._bias[slots],
            self.repetition[slots],
            self.frequency[slots],
            self.presence[slots],
            counts[slots] if penalised and counts is not None else None,
            in_prompt[slots] if penalised and in_prompt is not None else None,
            self.stop_ids[slots],
            upload(min_left, self._device),
        )

    def _open_bias(self, slot: int, sampling: Sampling) -> None:
        missing = len(sampling.logit_bias) - self._bias.shape[1]
        if missing > 0:
            self._bias_ids = torch.nn.functional.pad(self._bias_ids, (0, missing), value=NO_TOKEN)
            self._bias = torch.nn.functional.pad(self._bias, (0, missing))
        self._bias_ids[slot].fill_(NO_TOKEN)
        for place, (token, bias) in enumerate(sampling.logit_bias):
            self._bias_ids[slot, place], self._bias[slot, place] = token, bias

    def _open_counts(self, slot: int, prompt_ids: tuple[int, ...]) -> None:
        if self._counts is None or self._in_prompt is None:
            self._counts = torch.zeros(self._shape, dtype=torch.int32, device=self._device)
            self._in_prompt = torch.zeros(self._shape, dtype=torch.bool, device=self._device)
        self._counts[slot].zero_()
        self._in_prompt[slot].zero_()
        self._in_prompt[slot].index_fill_(0, upload(prompt_ids, self._device), 1)
        self._num_counted[slot] = 0

    def _count(self, sequence: Sequence) -> None:
        """Bring a slot's counts up to the sequence's last token."""
        assert self._counts is not None
        slot, num_output = sequence.slot, sequence.num_output
        if fresh := sequence.tokens[len(sequence.tokens) - num_output + self._num_counted[slot] :]:
            ids = upload(fresh, self._device)
            self._counts[slot].index_add_(0, ids, torch.ones_like(ids, dtype=torch.int32))
            self._num_counted[slot] = num_output


def has_penalty(sampling: Sampling) -> bool:
    """Tell whether a request's law depends on which tokens came before."""
    return sampling.repetition_penalty != 1.0 or sampling.frequency_penalty != 0.0 or sampling.presence_penalty != 0.0


def edits(sampling: Sampling) -> bool:
    """Tell whether a request changes logits before temperature."""
    return bool(sampling.logit_bias) or sampling.min_tokens > 0 or has_penalty(sampling)
