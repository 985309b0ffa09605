"""The mistakes themselves, each with the signature of the honest function it is put in the place of."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.prove.enumeration import Model, Word
from bench.prove.round_law import WIDTH, draw_as_drafters_do
from bench.prove.uneven import Uneven
from core.planning import F32, EarlyStop, Rule, TopK
from core.random import derive_nonce, round_uniforms
from core.tensors import Draft, DraftAsk, Favour, Verdict
from kernels.admit import admit
from kernels.noise import gumbel_noise
from kernels.reference import draw
from kernels.reject import reject

# --- Admission ---------------------------------------------------------------------------------------------------


def search_in_hindsight(
    survival: Tensor, drafted: Tensor, group: Tensor, rules: tuple[Rule, ...], favour: Favour | None = None
) -> Tensor:
    """Admit the most profitable number of drafts, after seeing the survivals of all."""
    rates = _rates(survival, rules[0])
    return admit(survival, drafted, group, (TopK(int(rates.argmax())),), favour)


def stop_late_and_go_back(
    survival: Tensor, drafted: Tensor, group: Tensor, rules: tuple[Rule, ...], favour: Favour | None = None
) -> Tensor:
    """Stop at the second draft in a row that does not pay, and go back to the best number so far."""
    best, patience = 0, 2
    rates = _rates(survival, rules[0]).tolist()
    for k in range(1, len(rates)):
        best, patience = (k, 2) if rates[k] > rates[best] else (best, patience - 1)
        if not patience:
            break
    return admit(survival, drafted, group, (TopK(best),), favour)


def _rates(survival: Tensor, rule: Rule) -> Tensor:
    assert isinstance(rule, EarlyStop)
    tokens = len(survival) + torch.nn.functional.pad(survival.flatten().sort(descending=True).values.cumsum(0), (1, 0))
    seconds = torch.tensor(rule.step_s)
    return tokens[: len(seconds)] / seconds[: len(tokens)]


def break_ties_by_the_whole_row(
    survival: Tensor, drafted: Tensor, group: Tensor, rules: tuple[Rule, ...], favour: Favour | None = None
) -> Tensor:
    """Order equal survivals by whatever comes after them, as a sort of something larger may."""
    return admit(survival + 1e-4 * survival.sum(1, keepdim=True), drafted, group, rules, favour)


def survivals_of_the_token(model: Model, prefix: Word, draft: Word, width: int) -> tuple[float, ...]:
    """Take the q of the very token that was drawn for its confidence."""
    chances, a = [], 1.0
    for j, x in enumerate(draft):
        a *= float(model.q(prefix + draft[:j])[x])
        chances.append(a)
    return tuple(chances + [0.0] * (width - len(draft)))


# --- Verification ------------------------------------------------------------------------------------------------


def draw_from_the_target(logits: Tensor, draft: Draft, lengths: Tensor, uniforms: Tensor) -> Verdict:
    """Draw from p after a rejection, instead of the residual."""
    verdict = reject(logits, draft, lengths, uniforms)
    row = _first_rows(lengths) + verdict.accepted
    return replace(verdict, next_token=draw(logits[row].softmax(-1), uniforms[:, -1]))


def draw_the_bonus_from_the_residual(logits: Tensor, draft: Draft, lengths: Tensor, uniforms: Tensor) -> Verdict:
    """Draw from max(p - q, 0) of the next draft after a full accept, though that draft was never tested."""
    verdict = reject(logits, draft, lengths, uniforms)
    assert draft.q_logits is not None
    place = lengths.long().clamp(max=WIDTH - 1)
    p = logits[_first_rows(lengths) + lengths].softmax(-1)
    residual = (p - draft.q_logits[torch.arange(len(p)), place].softmax(-1)).clamp_(min=0)
    is_bonus = (verdict.accepted == lengths) & (lengths < draft.lengths)
    return replace(verdict, next_token=torch.where(is_bonus, draw(residual, uniforms[:, -1]), verdict.next_token))


def draw_the_bonus_one_row_early(logits: Tensor, draft: Draft, lengths: Tensor, uniforms: Tensor) -> Verdict:
    """Draw the bonus from the row of the last draft instead of the row after it."""
    verdict = reject(logits, draft, lengths, uniforms)
    row = _first_rows(lengths) + (lengths - 1).clamp(min=0)
    is_bonus = (verdict.accepted == lengths) & (lengths > 0)
    early = draw(logits[row].softmax(-1), uniforms[:, -1])
    return replace(verdict, next_token=torch.where(is_bonus, early, verdict.next_token))


def use_the_accept_draw_again(logits: Tensor, draft: Draft, lengths: Tensor, uniforms: Tensor) -> Verdict:
    """Draw the next token with the number that judged the first draft."""
    shared = uniforms.clone()
    shared[:, -1] = uniforms[:, 0]
    return reject(logits, draft, lengths, shared)


def draw_in_bfloat16(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Draw from a bfloat16 copy of the law that is reported in float32."""
    return draw_as_drafters_do(logits.bfloat16().float(), uniforms)


def _first_rows(lengths: Tensor) -> Tensor:
    return (lengths.long() + 1).cumsum(0) - lengths - 1


# --- Randomness --------------------------------------------------------------------------------------------------


def key_by_position(
    nonce: NDArray[np.uint64], anchors: NDArray[np.int64], attempts: NDArray[np.int64], width: int
) -> tuple[F32, F32]:
    """Return a round's numbers keyed by position alone: each place as if it were the first after its anchor."""
    places = [round_uniforms(nonce, anchors + j, attempts, 1) for j in range(width)]
    last = round_uniforms(nonce, anchors, attempts, 1)[1][:, 1:]
    draft = [numbers[0] for numbers in places]
    verdict = [numbers[1][:, :1] for numbers in places]
    return np.concatenate([np.empty((len(nonce), 0), np.float32), *draft], 1), np.concatenate([*verdict, last], 1)


def key_by_row(
    keys: NDArray[np.uint64],
    positions: NDArray[np.int64],
    n_index: NDArray[np.int64],
    vocab_size: int,
    device: torch.device,
) -> Tensor:
    """Return coupled noise keyed by the row of the round, so that every round draws the same."""
    return gumbel_noise(keys, positions - positions[:, :1], n_index, vocab_size, device)


def share_nonces(job: bytes, n_index: int, epoch: int) -> int:
    """Give eight requests that stand beside each other one nonce."""
    name, _, number = job.rpartition(b" ")
    return derive_nonce(name + str(int(number) // 8).encode(), n_index, epoch)


def forget_the_epoch(job: bytes, n_index: int, epoch: int) -> int:  # noqa: ARG001
    """Give every claim of a job the nonce of its first."""
    return derive_nonce(job, n_index, 0)


# --- Drafters ----------------------------------------------------------------------------------------------------


class PeekingEvidence(Uneven):
    """Evidence that is told by the token it judges."""

    def propose(self, ask: DraftAsk) -> Draft:
        """Look at the drawn tokens."""
        draft = super().propose(ask)
        return replace(draft, evidence=self._evidence[draft.tokens])


class PeekingLength(Uneven):
    """Proposals that end before a token that looks bad."""

    def propose(self, ask: DraftAsk) -> Draft:
        """Drop a draft because of what it is."""
        draft = super().propose(ask)
        good = (draft.tokens % 2 == 0).to(torch.int32).cumprod(1).sum(1, dtype=torch.int32)
        return replace(draft, lengths=torch.minimum(draft.lengths, good))


class AnotherLaw(Uneven):
    """Tokens drawn at half the temperature of what is reported."""

    def propose(self, ask: DraftAsk) -> Draft:
        """Report logits that are flatter than those drawn from."""
        draft = super().propose(ask)
        assert draft.q_logits is not None
        return replace(draft, q_logits=draft.q_logits / 2)


class Liar(PeekingEvidence):
    """A drafter that breaks the contract in every way that only its word stands against."""

    def propose(self, ask: DraftAsk) -> Draft:
        """Judge the drawn tokens, and report a law that they were not drawn from."""
        draft = super().propose(ask)
        assert draft.q_logits is not None
        return replace(draft, q_logits=draft.q_logits.roll(1, -1))
