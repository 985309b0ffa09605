"""The client of jobs for code without an event loop."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from client.jobs import JobEvent, Jobs


class BlockingJobs:
    """What `Jobs` does, with calls that wait; a context, to be used from one thread."""

    def __init__(self, urls: str | Sequence[str], *, api_key: str | None = None, max_failures: int = 10) -> None:
        self._jobs = Jobs(urls, api_key=api_key, max_failures=max_failures)
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        self._runner.run(self._jobs.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.run(self._jobs.__aexit__(kind, error, trace))
        self._runner.close()

    def submit(self, *, idempotency_key: str | None = None, **fields: Any) -> str:
        """Make a job and return its id."""
        return self._runner.run(self._jobs.submit(idempotency_key=idempotency_key, **fields))

    def state(self, job_id: str) -> dict[str, Any]:
        """Return the job as it stands."""
        return self._runner.run(self._jobs.state(job_id))

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Ask for a job's end and return the job."""
        return self._runner.run(self._jobs.cancel(job_id))

    def delete(self, job_id: str) -> None:
        """Cancel a job and have it forgotten."""
        self._runner.run(self._jobs.delete(job_id))

    def result(self, job_id: str) -> dict[str, Any]:
        """Wait for a job's end and return its answer."""
        return self._runner.run(self._jobs.result(job_id))

    def events(self, job_id: str, *, after: str = "") -> Iterator[JobEvent]:
        """Yield a job's events after the one with the id `after`, up to the last choice's Final."""
        events = self._jobs.events(job_id, after=after)
        try:
            while (event := self._runner.run(_next(events))) is not None:
                yield event
        finally:
            self._runner.run(events.aclose())


async def _next(events: AsyncGenerator[JobEvent, None]) -> JobEvent | None:
    return await anext(events, None)
