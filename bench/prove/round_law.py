"""The law that drafting and `reject` really have in float32, measured to 2^-24: no sampling, no tolerance to speak of.

A uniform has 24 bits, and each decision is monotone in its own uniform: a draft is accepted below some value, and the
drawn token's id rises. So bisection finds every probability exactly as the machine realises it, and the law of a round
of two drafts is a sum over them. Enumeration with Fractions covers the argument; this covers the arithmetic.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from core.tensors import Draft, DraftAsk, Processing, Verdict
from drafters.draws import SlotDraws
from kernels.reject import reject

BITS = 24
STEP = 2.0**-BITS
# Where a draft that can be rejected at all is rejected.
LAST = 1.0 - STEP
WIDTH = 2
# Float32 softmaxes of the same logits; bfloat16 anywhere in between is a thousand times farther off.
TOLERANCE = 2e-6

Body = Callable[[Tensor, Draft, Tensor, Tensor], Verdict]
# Logits [b, V] of a slot and uniforms [b] -> tokens [b].
DrawSlot = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Tables:
    """Logits of target p and drafter q after 0, 1 and 2 tokens: p1 [V], p2 [V, V], p3 [V, V, V], q1, q2."""

    p: tuple[Tensor, Tensor, Tensor]
    q: tuple[Tensor, Tensor]

    @property
    def vocab(self) -> int:
        """V."""
        return len(self.p[0])


def random_tables(vocab: int = 5, seed: int = 0, scale: float = 1.5) -> Tables:
    """Return normal logits."""
    rng = torch.Generator().manual_seed(seed)
    p1, p2, p3, q1, q2 = (scale * torch.randn(*[vocab] * n, generator=rng) for n in (1, 2, 3, 1, 2))
    return Tables((p1, p2, p3), (q1, q2))


def draw_as_drafters_do(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Draw tokens [b] from logits f32 [b, V] by drafters.draws.SlotDraws, at temperature 1."""
    size = len(logits)
    ones, off = torch.ones(size), torch.zeros(size, dtype=torch.int64)
    processing = Processing(ones, off, ones, torch.zeros(size), is_plain=True, truncates=False)
    lengths = torch.ones(size, dtype=torch.int32)
    ask = DraftAsk(off, off, off, lengths, processing, uniforms[:, None], None)
    return SlotDraws(ask).draw(0, logits.clone())


def lengths_by_first_token(first: Tensor) -> Tensor:
    """Return lengths [B] that read the first draft and decide about the second: causal, so no bias."""
    return torch.where(first % 2 == 0, 2, 1).to(torch.int32)


def round_variation(
    tables: Tables,
    lengths: int | Callable[[Tensor], Tensor] = lengths_by_first_token,
    body: Body = reject,
    draw_slot: DrawSlot = draw_as_drafters_do,
    *,
    is_point_mass: bool = False,
) -> float:
    """Return the total variation between the first two tokens of a round and the target's law of them.

    lengths        drafts verified: a number, or a function of the first draft's token
    is_point_mass  the drafts, drawn all the same, are said to be deterministic, and q is dropped
    """
    vocab, (p1, p2, _) = tables.vocab, tables.p
    x1, x2 = (each.flatten() for each in torch.meshgrid(torch.arange(vocab), torch.arange(vocab), indexing="ij"))
    q1, q2 = _drawn_law(tables.q[0][None], draw_slot)[0], _drawn_law(tables.q[1], draw_slot)
    chance = q1[x1] * q2[x1, x2]  # [B], B = V * V
    num = lengths(x1) if callable(lengths) else torch.full_like(x1, lengths).to(torch.int32)
    rounds = _Rounds(tables, torch.stack((x1, x2), 1), num, body, is_point_mass)
    first, second = p1.double().softmax(-1), p2.double().softmax(-1)
    law = torch.zeros(vocab, vocab, dtype=torch.float64)
    keep = [rounds.chance_to_keep(place) for place in range(WIDTH)]
    for num_kept in range(WIDTH + 1):
        reach = chance * torch.stack([*keep[:num_kept], torch.ones_like(chance)]).prod(0)
        ends = num == num_kept
        stays = torch.where(ends, 1.0, 1.0 - keep[num_kept]) if num_kept < WIDTH else torch.ones_like(chance)
        mass = reach * stays * (num >= num_kept)  # [B]
        following = rounds.law_of_next(num_kept)  # [B, V]
        if num_kept == 0:
            law += ((mass[:, None] * following).sum(0))[:, None] * second
        elif num_kept == 1:
            law.index_add_(0, x1, mass[:, None] * following)
        else:
            law.index_put_((x1, x2), mass, accumulate=True)
    return float((law - first[:, None] * second).abs().sum()) / 2


@dataclass(frozen=True)
class _Rounds:
    """All V * V rounds of two drafts [B, 2], judged as one batch by `body`."""

    tables: Tables
    drafts: Tensor
    lengths: Tensor
    body: Body
    is_point_mass: bool

    def chance_to_keep(self, place: int) -> Tensor:
        """Return the chance [B] that draft `place` is kept if those before it are; 0 where it is not verified."""

        def is_kept(uniforms: Tensor) -> Tensor:
            return self._judge({place: uniforms}).accepted > place

        return _count_below(is_kept, len(self.drafts)) * STEP

    def law_of_next(self, num_kept: int) -> Tensor:
        """Return the law [B, V] of the token after num_kept drafts; rounds that cannot end there give anything."""
        size, vocab = len(self.drafts), self.tables.vocab

        def below(token: int) -> Tensor:
            def is_below(uniforms: Tensor) -> Tensor:
                return self._judge({num_kept: torch.full((size,), LAST), WIDTH: uniforms}).next_token <= token

            return _count_below(is_below, size) * STEP

        cumulative = torch.stack([below(token) for token in range(vocab)], 1)
        return torch.diff(cumulative, prepend=torch.zeros(size, 1, dtype=torch.float64))

    def _judge(self, columns: dict[int, Tensor]) -> Verdict:
        """Judge with uniforms of 0, which keep every draft, but for the columns given; the last one is drawn with."""
        size = len(self.drafts)
        uniforms = torch.zeros(size, WIDTH + 1)
        for column, values in columns.items():
            uniforms[:, column] = values
        x1, x2 = self.drafts.unbind(1)
        rows = torch.stack((self.tables.p[0].expand(size, -1), self.tables.p[1][x1], self.tables.p[2][x1, x2]), 1)
        q_logits = torch.stack((self.tables.q[0].expand(size, -1), self.tables.q[1][x1]), 1)
        draft = Draft(
            self.drafts,
            torch.full((size,), WIDTH, dtype=torch.int32),
            torch.full((size,), self.is_point_mass),
            None if self.is_point_mass else q_logits,
            torch.zeros(size, WIDTH),
        )
        return self.body(rows[torch.arange(WIDTH + 1) <= self.lengths[:, None]], draft, self.lengths, uniforms)


def _drawn_law(logits: Tensor, draw_slot: DrawSlot) -> Tensor:
    """Return the law f64 [b, V] that tokens drawn from logits [b, V] really have."""

    def below(token: int) -> Tensor:
        return _count_below(lambda uniforms: draw_slot(logits, uniforms) <= token, len(logits)) * STEP

    cumulative = torch.stack([below(token) for token in range(logits.shape[1])], 1)
    return torch.diff(cumulative, prepend=torch.zeros(len(logits), 1, dtype=torch.float64))


def _count_below(holds: Callable[[Tensor], Tensor], size: int) -> Tensor:
    """Return for how many of the 2^24 uniforms a claim holds, f64 [size]; it must hold below some value only."""
    low, high = torch.zeros(size, dtype=torch.int64), torch.full((size,), 1 << BITS)
    for _ in range(BITS + 1):
        middle = (low + high) // 2
        is_true = holds((middle.clamp(max=(1 << BITS) - 1)).float() * STEP) & (low < high)
        low = torch.where(is_true, middle + 1, low)
        high = torch.where(is_true, high, middle)
    return low.double()
