"""Grammars of running answers: what they force and forbid in drafts, what they allow in verification, where they end.

A grammar is part of p only. Whatever goes wrong with one ends its own request, and no other.
"""

from collections.abc import Iterable
from collections.abc import Sequence as Listed
from dataclasses import replace

import structlog
import torch
from torch import Tensor

from core.planning import I32
from core.tensors import Allowed, Draft
from engine.accept import Round
from engine.sequence import Sequence
from engine.stats import EngineStats
from models.constraint import Constraint
from models.token_masks import TokenMasks

log = structlog.get_logger()

# The logit of acceptance of a draft that cannot be refused.
FORCED_EVIDENCE = 16.0


class Grammars:
    """Owns the threads that compute masks; the state of each answer's grammar is its sequence's."""

    def __init__(self, stats: EngineStats) -> None:
        self._stats = stats
        self._masks: TokenMasks | None = None

    def guide(self, sequences: Listed[Sequence], draft_len: I32, draft: Draft) -> Draft:
        """Return the draft of a batch with the tokens that grammars force, and none behind a token they forbid.

        draft_len i32 [B] are the drafts that each sequence may have. On a GPU this is where the drafts of constrained
        sequences, and no others, come to the host.
        """
        places = [b for b in _constrained(sequences) if draft_len[b] > 0]
        if not places:
            return draft
        index = torch.tensor(places)
        rows = zip(draft.tokens[index].tolist(), draft.lengths[index].tolist(), draft.point_mass[index].tolist())
        tokens, lengths, evidence = draft.tokens.clone(), draft.lengths.clone(), draft.evidence.clone()
        forced = torch.zeros_like(tokens, dtype=torch.bool)
        for b, (drafted, length, is_certain) in zip(places, rows):
            constraint = sequences[b].constraint
            assert constraint is not None
            try:
                guided = constraint.guide(drafted[:length], int(draft_len[b]), is_certain=is_certain)
            except Exception as error:  # noqa: BLE001 - whatever it is, it ends this answer and no other
                sequences[b].fault = str(error)
                lengths[b] = 0
                continue
            lengths[b] = size = len(guided.tokens)
            if size:
                tokens[b, :size] = torch.tensor(guided.tokens)
                forced[b, :size] = torch.tensor(guided.is_forced)
        evidence[forced] = FORCED_EVIDENCE
        return Draft(tokens, lengths, draft.point_mass, draft.q_logits, evidence, forced)

    def allowed(self, sequences: Listed[Sequence], draft: Draft, lengths: Tensor) -> Allowed | None:
        """Return what the grammars of S sequences allow in their judged rows, lengths i32 [S] + 1 each; None if none.

        On a GPU it is computed while the target runs, and then sent there.
        """
        places = _constrained(sequences)
        if not places:
            return None
        self._masks = self._masks or TokenMasks()
        counts = lengths.tolist()
        index = torch.tensor(places)
        drafted = draft.tokens[index].tolist()
        asked: list[tuple[Constraint, list[int]]] = []
        for b, row in zip(places, drafted):
            constraint = sequences[b].constraint
            assert constraint is not None
            asked.append((constraint, row[: counts[b]]))
        bits, failed = self._masks.fill(asked)
        for place, reason in failed.items():
            sequences[places[place]].fault = reason
        ends = (lengths.to(torch.int64) + 1).cumsum(0).tolist()
        rows = [torch.arange(ends[b] - counts[b] - 1, ends[b]) for b in places]
        return Allowed(torch.cat(rows), torch.from_numpy(bits))

    def advance(self, sequences: Listed[Sequence], verdict: Round, draft: Draft) -> Round:
        """Move the grammars of judged sequences on by what was emitted, and end answers where grammars end them.

        A sequence whose grammar failed emits nothing more: its `fault` says why.
        """
        places = _constrained(sequences)
        if not places:
            return verdict
        self._stats.constrained_rounds += len(places)
        emitted, stopped, logprobs = [*verdict.emitted], [*verdict.stopped], [*verdict.logprobs]
        for b in places:
            constraint = sequences[b].constraint
            assert constraint is not None
            count = self._advance(sequences[b], constraint, emitted[b])
            stopped[b] = stopped[b] or constraint.is_complete
            emitted[b], told = emitted[b][:count], logprobs[b]
            logprobs[b] = None if told is None else told[:count]
        self._count_forced(verdict, draft)
        return replace(verdict, emitted=emitted, stopped=stopped, logprobs=logprobs)

    def _advance(self, sequence: Sequence, constraint: Constraint, token_ids: list[int]) -> int:
        """Return how many tokens the answer takes: none once its grammar has failed."""
        if sequence.fault is None:
            try:
                return constraint.advance(token_ids)
            except Exception as error:  # noqa: BLE001 - whatever it is, it ends this answer and no other
                sequence.fault = str(error)
        self._stats.fallbacks["grammar"] += 1
        # The reason may quote the grammar, which is the client's.
        log.warning("grammar_failed", request_id=sequence.request.id)
        return 0

    def _count_forced(self, verdict: Round, draft: Draft) -> None:
        if draft.forced is None:
            return
        places = torch.arange(draft.tokens.shape[1])
        for name, counts in (("forced_verified", verdict.verified), ("forced_accepted", verdict.accepted)):
            reached = draft.forced & (places < torch.tensor(counts)[:, None])
            setattr(self._stats, name, getattr(self._stats, name) + int(reached.sum()))


def _constrained(sequences: Iterable[Sequence]) -> list[int]:
    return [b for b, sequence in enumerate(sequences) if sequence.constraint is not None]
