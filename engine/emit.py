"""From a verdict to what leaves the engine."""

from core.tensors import Draft
from core.types import Emission, FinishReason
from engine.accept import Round
from engine.scheduler import Batch
from engine.sequence import Sequence


def emissions(batch: Batch, draft: Draft, verdict: Round) -> list[Emission]:
    """Return what each judged sequence gained, and why those end that do."""
    emitted, drafted = [], draft.lengths.tolist()
    for i, b in enumerate(verdict.index.tolist()):
        sequence, tokens, accepted = batch.sequences[b], verdict.emitted[i], verdict.accepted[i]
        emission = Emission(
            sequence.request.id,
            tuple(tokens),
            verdict.verified[i],
            accepted,
            min(accepted, len(tokens)),
            _finish_reason(sequence, is_stopped=verdict.stopped[i]),
            sequence.fault,
            verdict.logprobs[i],
            sequence.num_cached or 0,
            drafted[b],
        )
        emitted.append(emission)
    return emitted


def _finish_reason(sequence: Sequence, *, is_stopped: bool) -> FinishReason | None:
    if sequence.fault is not None:
        return FinishReason.ERROR
    if is_stopped:
        return FinishReason.STOP
    return FinishReason.LENGTH if sequence.num_remaining <= 0 else None
