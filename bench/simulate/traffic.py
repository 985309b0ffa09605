"""Who asks what, and when: clients in a closed loop, a Poisson process (bench/simulate/rate.py), or a trace.

Every choice is seeded.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta, Struct

from bench.simulate.drafts import Texts
from bench.simulate.job import Job
from bench.simulate.rate import arrival_times
from bench.simulate.settings import Domain, Lengths, Tokens, Traffic
from core.config import nearest
from core.errors import ConfigError


class TraceLine(Struct, frozen=True, forbid_unknown_fields=True):
    """One request of a trace: seconds since its beginning, tokens, and its domain (None: any)."""

    at_s: Annotated[float, Meta(ge=0.0)]
    prompt_len: Tokens
    output_len: Tokens
    domain: str | None = None


class Arrivals:
    """Makes the jobs of one case; `load` is clients, requests per second, or how much faster a trace goes."""

    def __init__(self, traffic: Traffic, load: float, texts: Texts, seed: int) -> None:
        self._traffic, self._load, self._texts = traffic, load, texts
        self._random = np.random.default_rng([seed, 3])
        self._domains = domains_of(traffic, texts)
        weights = np.array([domain.weight for domain in self._domains.values()])
        self._names, self._shares = list(self._domains), weights / weights.sum()
        self._trace = read_trace(Path(traffic.trace), texts) if traffic.kind == "trace" and traffic.trace else []
        self._num_made = 0
        # Texts of a domain are played in one seeded order, so that none comes twice before all have.
        self._orders = {name: self._random.permutation(texts.domains[name]) for name in self._names}
        self._taken = dict.fromkeys(self._names, 0)

    @property
    def trace_s(self) -> float | None:
        """When the last request of a trace comes, at this load; None for traffic that never ends."""
        return self._trace[-1].at_s / self._load if self._trace else None

    def opening(self) -> Iterator[Job]:
        """Yield jobs in order of arrival: for ever for a Poisson process, each client's first in a closed loop.

        Clients' first answers are cut to lengths spread evenly, as if the loop had been running for long.
        """
        match self._traffic.kind:
            case "closed":
                shares = self._random.permutation(int(self._load)) + 1
                for share in (shares / len(shares)).tolist():
                    yield self._make(0.0, share)
            case "poisson":
                for now_s in arrival_times(self._load, self._traffic.bursts, self._traffic.day, self._random):
                    yield self._make(now_s)
            case "trace":
                for line in self._trace:
                    name = line.domain or self._pick()
                    yield self._job(line.at_s / self._load, self._text(name), line.prompt_len, line.output_len)

    def after(self, job: Job) -> Job | None:
        """Return what the client of a finished job sends next; None where nobody waits for answers."""
        if self._traffic.kind != "closed":
            return None
        assert job.ended_s is not None
        return self._make(job.ended_s + self._traffic.think_s)

    def _make(self, now_s: float, share: float = 1.0) -> Job:
        name = self._pick()
        domain, text = self._domains[name], self._text(name)
        if not domain.is_recorded:
            prompt_len, output_len = (draw_length(law, self._random) for law in (domain.prompt, domain.output))
            return self._job(now_s, text, prompt_len, max(1, round(share * output_len)))
        prompt_len, output_len = int(self._texts.prompt_len[text]), int(self._texts.lengths[text])
        if self._texts.asked is None:
            return self._job(now_s, text, prompt_len, max(1, round(share * output_len)))
        # Most answers end before the engine knows of it, and until then it drafts and verifies what comes to nothing.
        asked = max(1, round(share * int(self._texts.asked[text])))
        return self._job(now_s, text, prompt_len, min(output_len, asked), asked)

    def _job(self, now_s: float, text: int, prompt_len: int, output_len: int, asked: int = 0) -> Job:
        self._num_made += 1
        limit = max(output_len, self._traffic.max_tokens or asked)
        deadline_s = None if self._traffic.deadline_s is None else now_s + self._traffic.deadline_s
        return Job(self._num_made, text, prompt_len, output_len, limit, now_s, deadline_s)

    def _pick(self) -> str:
        return self._names[int(self._random.choice(len(self._names), p=self._shares))]

    def _text(self, name: str) -> int:
        order = self._orders[name]
        self._taken[name] += 1
        return int(order[(self._taken[name] - 1) % len(order)])


def domains_of(traffic: Traffic, texts: Texts) -> dict[str, Domain]:
    """Return the domains of the traffic; raises ConfigError for one whose drafts nobody knows."""
    if not traffic.domains:
        is_recorded = bool((texts.prompt_len > 0).all())
        return {name: Domain(weight=len(index), is_recorded=is_recorded) for name, index in texts.domains.items()}
    for name, domain in traffic.domains.items():
        check_domain(name, texts)
        if domain.is_recorded and not (texts.prompt_len[texts.domains[name]] > 0).all():
            raise ConfigError(f"traffic.domains.{name}.is_recorded needs a recording with lengths of prompts")
    return traffic.domains


def check_domain(name: str, texts: Texts) -> None:
    """Raise ConfigError if nobody knows how drafts of a domain fare."""
    if name not in texts.domains:
        raise ConfigError(f"nothing says how drafts of domain {name!r} fare; {nearest(name, list(texts.domains))}")


def draw_length(law: Lengths, random: np.random.Generator) -> int:
    """Return a number of tokens, log-normal with the mean and variation of the law, within its bounds."""
    variance = math.log(1.0 + law.variation**2)
    drawn = law.mean * math.exp(variance**0.5 * float(random.standard_normal()) - variance / 2)
    return int(min(max(round(drawn), law.least), law.most))


def read_trace(path: Path, texts: Texts) -> list[TraceLine]:
    """Return a trace's requests in order of arrival; raises ConfigError, with the line, for what is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the trace {path}: {error}") from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            request = msgspec.convert(json.loads(line), TraceLine)
        except (json.JSONDecodeError, msgspec.ValidationError) as error:
            raise ConfigError(f"{path}, line {number}: {error}") from error
        if request.domain is not None:
            check_domain(request.domain, texts)
        found.append(request)
    if not found:
        raise ConfigError(f"the trace {path} has no request")
    return sorted(found, key=lambda request: request.at_s)
