"""What is counted of a simulation, and what it comes to."""

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from bench.simulate.engine import StepDone
from bench.simulate.job import Job
from bench.window import Window

PERCENTILES = (50.0, 95.0, 99.0)

Percentiles = tuple[float, float, float]


class Measures:
    """Counts from from_s on; mutated by the fleet.

    window    what clients received, as the benchmarks of real engines count it
    token_s   of every answer that began and ended since from_s, its seconds per token after the first
    busy_s    seconds of all workers' steps since from_s
    """

    def __init__(self, from_s: float) -> None:
        self.from_s, self.window, self.busy_s = from_s, Window(), 0.0
        self.token_s: list[float] = []
        self.num_ended = self.num_steps = 0

    def stepped(self, done: StepDone, now_s: float) -> None:
        """Count a step that has just ended; of one that began before from_s only the seconds since."""
        if now_s <= self.from_s:
            return
        work, window = done.work, self.window
        self.busy_s += min(done.seconds, now_s - self.from_s)
        self.num_steps += 1
        window.rounds += work.num_sampling
        window.verified += work.num_verified
        window.accepted += sum(one.num_tokens for one in done.answered) - work.num_sampling

    def streamed(self, job: Job, num_tokens: int, now_s: float) -> None:
        """Count tokens that reach a client now, and note them in its job."""
        if now_s > self.from_s:
            self.window.tokens += num_tokens
            if job.last_s is None:
                self.window.first_token_s.append(now_s - job.arrived_s)
            else:
                self.window.gaps_s.append(now_s - job.last_s)
                self.window.gap_tokens += num_tokens
        if job.first_s is None:
            job.first_s, job.num_first = now_s, num_tokens
        job.last_s = now_s
        job.num_streamed += num_tokens

    def ended(self, job: Job) -> None:
        """Count a job whose last tokens have been streamed."""
        if job.last_s is None or job.last_s <= self.from_s:
            return
        self.num_ended += 1
        if job.token_s is not None and job.first_s is not None and job.first_s > self.from_s:
            self.token_s.append(job.token_s)


class Outcome(Struct, frozen=True):
    """One policy under one load.

    seconds                 virtual ones that count: as many as were asked for, fewer where a trace was over before
    tokens_per_s            of all clients; tokens_per_s_per_user how fast an answer grows once it has begun
    first_token_s           from arrival to the first token: median, 95th and 99th percentile; None where there was none
    token_s                 seconds per token after the first, by answer; gap_s between two arrivals of one answer
    longest_s               that a client waited for its first tokens or for more; 0 where nothing came
    verify_length           drafts verified per sequence and step; accepted_length tokens per sequence and step
    utilisation             share of the workers' time in which they were in a step
    arrived, ended, refused jobs that came and that ended in the time that counts, and that no worker could take
    inside_before, inside   jobs in the fleet when counting began, and at the end
    deaths, taken_over      workers that died, jobs that went on elsewhere for it
    steps, cpu_s           steps of all workers, and processor seconds that simulating the case took
    """

    policy: str
    load: float
    workers: int
    seconds: float
    tokens_per_s: float
    tokens_per_s_per_user: float | None
    first_token_s: Percentiles | None
    token_s: Percentiles | None
    gap_s: Percentiles | None
    longest_s: float
    verify_length: float
    accepted_length: float
    utilisation: float
    arrived: int
    ended: int
    refused: int
    inside_before: int
    inside: int
    deaths: int
    taken_over: int
    steps: int
    cpu_s: float


def percentiles(values: Sequence[float]) -> Percentiles | None:
    """Return the median, the 95th and the 99th percentile; None of nothing."""
    if not values:
        return None
    middle, high, highest = np.percentile(values, PERCENTILES).tolist()
    return middle, high, highest
