"""The line that a worker writes of each job that it ends: ids and numbers, never text."""

import structlog

from service.storage.claims import Claim, Ending
from service.telemetry.phases import Stopwatch

log = structlog.get_logger()


def log_finished(ending: Ending, claim: Claim, watch: Stopwatch) -> None:
    """Write it."""
    final, job = ending.final, claim.job
    log.info(
        "request_finished",
        job_id=ending.job_id,
        model=job.model,
        arm=job.arm,
        reason=str(final.reason),
        epoch=ending.epoch,
        prompt_tokens=final.usage.prompt_tokens,
        completion_tokens=final.usage.completion_tokens,
        rounds=final.speculated.rounds,
        drafted=final.speculated.drafted,
        verified=final.speculated.verified,
        accepted=final.speculated.accepted,
        prefill_ms=milliseconds(watch.prefill_s),
        decode_ms=milliseconds(watch.decode_s),
    )


def milliseconds(seconds: float | None) -> float | None:
    """Return seconds as a log has them."""
    return None if seconds is None else round(1000 * seconds, 3)
