"""The line that a gateway writes of each answer: ids, settings and numbers, never text and never a user's name."""

import structlog
from msgspec import Struct

from client.wire import Job, Speculated, Usage
from service.telemetry.finished_log import milliseconds

log = structlog.get_logger()


class AnswerRecord(Struct, frozen=True):
    """What became of one request; job is the first of its num_choices.

    status      what HTTP would say: 499 where the client left; of a stream that failed, not what it had begun with
    finish      the choices' reasons, in their order
    first_s, token_s, whole_s   from the request to its first tokens, a mean token after those, and the whole answer
    """

    job: Job
    drafter: str
    policy: str
    num_choices: int
    status: int
    finish: str
    first_s: float | None
    token_s: float | None
    whole_s: float
    usage: Usage
    speculated: Speculated
    epoch_changes: int


def log_answer(record: AnswerRecord) -> None:
    """Write it; what is bound to the request, such as its request_id, goes with it."""
    job, speculated = record.job, record.speculated
    bound = structlog.contextvars.get_contextvars()
    log.info(
        "answer_finished",
        request_id=bound.get("request_id", job.id),
        job_id=job.id,
        tenant=job.user,
        model=job.model,
        arm=job.arm,
        drafter=record.drafter,
        policy=record.policy,
        choices=record.num_choices,
        status=record.status,
        finish=record.finish,
        ttft_ms=milliseconds(record.first_s),
        itl_ms=milliseconds(record.token_s),
        e2e_ms=milliseconds(record.whole_s),
        prompt_tokens=record.usage.prompt_tokens,
        output_tokens=record.usage.completion_tokens,
        drafted=speculated.drafted,
        verified=speculated.verified,
        accepted=speculated.accepted,
        epoch_changes=record.epoch_changes,
    )
