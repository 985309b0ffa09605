"""Sequential heads of random weights, what is asked of them, and the same walk in float64."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from core.tensors import DraftAsk, Processing
from kernels.markov import HeadWeights, Walk, walk
from kernels.markov_told import GATED, RECURRENT, VANILLA
from kernels.noise import coupled_keys, gumbel_noise

KINDS = {"vanilla": VANILLA, "gated": GATED, "rnn": RECURRENT}
HIDDEN = 12
KEY_STEP = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class HeadCase:
    """B blocks of G slots over V tokens, of which Vd are drafted; temperatures and marks go round over the blocks."""

    kind: str
    batch: int
    width: int
    vocab: int
    rank: int = 20
    temperatures: tuple[float, ...] = (1.0, 0.5, 0.0)
    coupled: tuple[bool, ...] = ()
    names_noise: bool = False
    draftable: int | None = None
    dtype: torch.dtype = torch.float32
    base_dtype: torch.dtype = torch.float32
    scale: float = 2.0

    def __str__(self) -> str:
        noise = "named" if self.names_noise else "given" if self.coupled else "none"
        return f"{self.kind}-B{self.batch}-G{self.width}-V{self.vocab}-r{self.rank}-{noise}-{self.draftable or 'all'}"

    def build(self, seed: int = 0) -> "HeadRound":
        rng = torch.Generator().manual_seed(seed)

        def normal(*shape, scale=0.7):
            return scale * torch.randn(shape, generator=rng)

        batch, width, vocab, rank = self.batch, self.width, self.vocab, self.rank
        ids = None if self.draftable is None else torch.randperm(vocab, generator=rng)[: self.draftable].sort().values
        w1, w2 = normal(vocab, rank), normal(self.draftable or vocab, rank)
        joint, parts = {"vanilla": (0, 0), "gated": (1, 1), "rnn": (3, 2)}[self.kind]
        own, state, bias = normal(joint * rank, parts * rank), normal(joint * rank, HIDDEN), normal(joint * rank)
        base = normal(batch, width, vocab, scale=self.scale)
        if ids is not None:
            base = torch.full_like(base, -torch.inf).index_copy_(-1, ids, base[:, :, ids])
        hidden = normal(batch, width, HIDDEN)
        head = HeadWeights(
            *(weight.to(self.dtype) for weight in (w1, w2)),
            ids,
            KINDS[self.kind],
            own.to(self.dtype) if joint else None,
        )
        gates = F.linear(hidden, state, bias) if joint else None
        return HeadRound(base.to(self.base_dtype), gates, head, self._ask(rng))

    def _ask(self, rng: torch.Generator) -> DraftAsk:
        batch, turn = self.batch, torch.arange(self.batch)
        temperature = torch.tensor(self.temperatures)[turn % len(self.temperatures)]
        zeros, ones = torch.zeros(batch), torch.ones(batch)
        is_plain, is_greedy = bool((temperature == 1).all()), not temperature.any()
        laws = Processing(temperature, zeros.long(), ones, zeros, is_plain, truncates=False, is_greedy=is_greedy)
        anchors = torch.randint(self.vocab, (batch,), generator=rng)
        noise, marks, gumbel = torch.rand(batch, self.width, generator=rng), None, None
        if self.coupled:
            marks = torch.tensor(self.coupled)[turn % len(self.coupled)]
            gumbel = self.keys() if self.names_noise else self.gumbel()
        lengths = torch.full((batch,), self.width, dtype=torch.int32)
        return DraftAsk(turn, anchors, turn, lengths, laws, noise, None, gumbel, marks)

    def keys(self):
        turn = np.arange(1, self.batch + 1)
        return coupled_keys(turn.astype(np.uint64) * KEY_STEP, turn, torch.from_numpy(turn * 1000))

    def gumbel(self) -> Tensor:
        turn = np.arange(1, self.batch + 1)
        positions = turn[:, None] * 1000 + np.arange(self.width)
        return gumbel_noise(turn.astype(np.uint64) * KEY_STEP, positions, turn, self.vocab, torch.device("cpu"))


@dataclass(frozen=True)
class HeadRound:
    """Arguments of `walk`; it may overwrite logits, so each walk has a copy."""

    logits: Tensor
    gates: Tensor | None
    head: HeadWeights
    ask: DraftAsk

    def walk(self) -> tuple[Walk, Tensor]:
        """Return what the kernels found, and the base logits they left."""
        logits = self.logits.clone()
        return walk(logits, self.gates, self.head, self.ask), logits


def true_logits(round_: HeadRound, tokens: Tensor) -> Tensor:
    """Return the logits f64 [B, G, V] of all slots before processing, given the tokens [B, G] that were drawn."""
    head = round_.head
    w1, w2 = head.w1.double(), head.w2.double()
    before = torch.cat((round_.ask.anchors[:, None], tokens[:, :-1]), 1)
    own = None if head.own is None else head.own.double()
    gates = None if round_.gates is None else round_.gates.double()
    state = torch.zeros(len(tokens), w1.shape[1], dtype=torch.float64)
    told = []
    for k in range(tokens.shape[1]):
        e = w1[before[:, k]]
        if head.kind == GATED:
            e = e * (e @ own.t() + gates[:, k]).sigmoid()
        if head.kind == RECURRENT:
            gate, candidate, output = (torch.cat((state, e), -1) @ own.t() + gates[:, k]).chunk(3, -1)
            state = gate.sigmoid() * state + (1 - gate.sigmoid()) * candidate.tanh()
            e = output.tanh()
        # What multiplies W2 is kept in the weights' own dtype.
        told.append(e.to(head.w1.dtype).double())
    bias = torch.stack(told, 1) @ w2.t()
    whole = round_.logits.double()
    return whole + bias if head.target_ids is None else whole.index_add(-1, head.target_ids, bias)
