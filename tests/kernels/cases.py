"""Random rounds and survivals of odd sizes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from core.tensors import Draft


@dataclass(frozen=True)
class RejectCase:
    """One round: B sequences, G most drafts, V tokens, and which of them are point masses."""

    batch: int
    width: int
    vocab: int
    kind: str = "sampled"
    seed: int = 0

    def __str__(self) -> str:
        return f"B{self.batch}-G{self.width}-V{self.vocab}-{self.kind}"

    def build(self) -> tuple[Tensor, Draft, Tensor, Tensor]:
        """Return target_logits, draft, lengths, uniforms; lengths run through 0..G and stay below the drafted."""
        rng = torch.Generator().manual_seed(self.seed)
        batch, width, vocab = self.batch, self.width, self.vocab
        drafted = torch.randint(width + 1, (batch,), generator=rng, dtype=torch.int32)
        lengths = torch.minimum(drafted, torch.arange(batch, dtype=torch.int32) % (width + 1))
        logits = 1.5 * torch.randn(int(lengths.sum()) + batch, vocab, generator=rng)
        q_logits = 1.5 * torch.randn(batch, width, vocab, generator=rng)
        point_mass = torch.full((batch,), self.kind == "point")
        if self.kind == "mixed":
            point_mass = torch.arange(batch) % 2 == 0
            q_logits[point_mass] = torch.nan
        if self.kind == "truncated":
            logits[torch.rand(logits.shape, generator=rng) < 0.6] = -torch.inf
            q_logits[torch.rand(q_logits.shape, generator=rng) < 0.6] = -torch.inf
            logits[:, -1], q_logits[:, :, vocab // 2] = 0.0, 0.0
        law = q_logits.nan_to_num(0.0).softmax(-1).reshape(-1, vocab)
        tokens = law.multinomial(1, generator=rng).view(batch, width) if width else torch.zeros(batch, 0).long()
        # Some drafts are the target's favourite, so that long prefixes are accepted too.
        start = (lengths.long() + 1).cumsum(0) - lengths - 1
        for b in range(0, batch, 3):
            for j in range(int(lengths[b])):
                if self.kind != "truncated":
                    tokens[b, j] = logits[start[b] + j].argmax()
        uniforms = torch.rand(batch, width + 1, generator=rng)
        evidence, forced = torch.zeros(batch, width), None
        if self.kind == "forced":
            forced = torch.rand(batch, width, generator=rng) < 0.4
            q_logits[forced] = torch.nan
        q = None if self.kind == "point" else q_logits
        return logits, Draft(tokens, drafted, point_mass, q, evidence, forced), lengths, uniforms


REJECT_CASES = [
    RejectCase(1, 1, 1),
    RejectCase(1, 7, 100),
    RejectCase(9, 3, 63),
    RejectCase(7, 4, 257, "mixed"),
    RejectCase(8, 3, 257, "point"),
    RejectCase(9, 2, 100, "truncated"),
    RejectCase(11, 4, 63, "forced"),
    RejectCase(5, 0, 63, "point"),
]


def random_survival(batch: int, width: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return survival [B, G] full of ties, saturated ones and zeros, drafted [B], and a group 0..2 for each."""
    rng = torch.Generator().manual_seed(seed)
    conditional = torch.rand(batch, width, generator=rng)
    # Quarters make ties, between rows and (at 1) along a row.
    coarse = torch.rand(batch, generator=rng) < 0.5
    conditional[coarse] = (conditional[coarse] * 5).floor() / 4
    survival = conditional.cumprod(1)
    if batch > 2:
        survival[2, width // 2 :] = torch.nan
    drafted = torch.randint(width + 1, (batch,), generator=rng, dtype=torch.int32)
    group = torch.randint(3, (batch,), generator=rng)
    return survival, drafted, group
