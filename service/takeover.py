"""What a claimed job asks of the engine: a request to run from where it stands, or an end without any work."""

import time

from client.wire import LOW, WireError
from core.random import derive_coupled_key, derive_nonce
from core.types import FinishReason, Request
from service.storage.claims import Claim, DeadLetter
from service.stream import End

KEY_SPACE = 1 << 64


def end_without_work(claim: Claim, max_attempts: int) -> End | None:
    """Return the end of a claim that has nothing to generate: ended before, not wanted, too late, or deadly.

    A job that was claimed max_attempts times without a single new token is what ends its workers.
    """
    if claim.streamed and claim.streamed[-1].reason is not None:
        return End(claim.request_id, claim.streamed[-1].reason)
    if claim.is_cancelled:
        return End(claim.request_id, FinishReason.CANCELLED)
    if claim.left_ms is not None and claim.left_ms <= 0:
        return End(claim.request_id, FinishReason.DEADLINE)
    if claim.attempts > max_attempts:
        attempts = claim.attempts - 1
        error = WireError(f"given up: {attempts} attempts ended without a new token", code="attempts_exhausted")
        letter = DeadLetter(claim.job.id, attempts, claim.last_worker, error.message)
        return End(claim.request_id, FinishReason.ERROR, error, letter)
    return None


def to_request(claim: Claim, verifier: str) -> Request:
    """Return what the engine runs for a claim: the epoch keys fresh draws, streamed tokens are gone on from.

    verifier is the configured one; a seed asks for `coupled` whatever it is. The deadline, which is told by Redis's
    clock, becomes one of this machine's.
    """
    job = claim.job
    return Request(
        id=claim.request_id,
        prompt_ids=job.prompt_ids,
        sampling=job.sampling,
        nonce=derive_nonce(job.nonce, job.n_index, claim.epoch),
        output_ids=tuple(token for chunk in claim.streamed for token in chunk.token_ids),
        n_index=job.n_index,
        coupled_key=_coupled_key(claim, verifier),
        cache_salt=job.cache_salt,
        speculation=job.speculation,
        # To the engine greater is more urgent; 1 is usual to both.
        priority=LOW - job.priority,
        deadline_s=None if claim.left_ms is None else time.time() + claim.left_ms / 1000,
    )


def _coupled_key(claim: Claim, verifier: str) -> int | None:
    """Return the same key in every attempt at a job; choices of one request are told apart by their n_index."""
    seed = claim.job.sampling.seed
    if seed is not None:
        return seed % KEY_SPACE
    return derive_coupled_key(claim.job.nonce) if verifier == "coupled" else None
