"""On a device the host does not wait for anything of a step but its verdict, and every text is the CPU's.

No device is needed: see tests/engine/pretend_device.py for what is pretended, and for what that cannot show.
"""

import pytest
import torch

from core.planning import FixedLength, Threshold, TopK
from engine import engine as engine_module
from policies.base import draft_all, draft_nothing
from policies.confidence import Confidence
from policies.fixed import Fixed, Off
from tests.engine.pretend_device import ELSEWHERE, move, pretended
from tests.engine.pretend_kernels import stand_in
from toys import SHAPE, make_engine, request, run, tiny_dspark, tiny_target

PROMPTS = [tuple((3 * i + 5 * j * j) % 32 for j in range(2 + 9 * i)) for i in range(4)]
LAWS = {
    "greedy": [{"temperature": 0.0}] * 4,
    "sampled": [{"temperature": 0.9, "top_p": 0.95}] * 4,
    "seeded": [{"seed": 3}] * 4,
    "mixed": [{"temperature": 0.0}, {"seed": 1}, {"temperature": 0.7}, {"temperature": 0.8, "repetition_penalty": 1.2}],
}


@pytest.fixture
def kernels(monkeypatch):
    """The kernels that run on a device, in whose place the twins run."""
    stand_in(monkeypatch)


class Script:
    """Verify drafts by one rule after the other, and every fourth step do not draft at all, so that rows are missed."""

    name = "script"
    rules = (TopK(5), Threshold(0.2), FixedLength(2), None)

    def __init__(self):
        self.num_steps = 0

    def plan(self, view):
        self.num_steps += 1
        rule = self.rules[self.num_steps % 4]
        return draft_nothing(view) if rule is None else draft_all(view, rule)

    def observe(self, outcome):
        """Learn nothing."""


POLICIES = {"off": Off, "fixed": lambda: Fixed(4), "confidence": lambda: Confidence(0.4), "script": Script}


def requests(law):
    return [request(p, i, str(i), max_tokens=12, **LAWS[law][i]) for i, p in enumerate(PROMPTS)]


def make(policy, where):
    target = tiny_target()
    drafter = None if policy == "off" else tiny_dspark(target)
    where(target)
    if drafter:
        where(drafter.network)
    return make_engine(target, drafter, POLICIES[policy](), SHAPE)


@pytest.mark.parametrize(
    ("policy", "law"),
    [
        *(("off", "greedy"), ("off", "mixed"), ("fixed", "greedy"), ("fixed", "sampled")),
        *(("confidence", "mixed"), ("script", "sampled"), ("script", "seeded")),
    ],
)
def test_the_host_waits_once_a_step_and_says_what_the_cpu_says(kernels, policy, law):
    here = make(policy, lambda network: network)
    expected = run(here, requests(law))
    with pretended() as device:
        away = make(policy, move)
        said, num_steps = run(away, requests(law)), away.stats.steps
    assert said == expected
    assert (away.stats.verified, away.stats.accepted) == (here.stats.verified, here.stats.accepted)
    assert policy == "off" or 0 < away.stats.accepted < away.stats.verified
    assert away.stats.catch_up_rows == here.stats.catch_up_rows
    assert policy != "script" or away.stats.catch_up_rows
    assert not away.stats.fallbacks
    assert device.waits == {"engine/device.py: host.copy_(packed)": num_steps}


def test_log_probabilities_cost_one_copy_more(kernels):
    asked = [request(PROMPTS[2], 1, max_tokens=12, temperature=0.0, logprobs=2)]
    with pretended() as device:
        engine = make("fixed", move)
        run(engine, asked)
    copies = device.waits.pop("engine/device.py: host.copy_(packed)")
    assert engine.stats.steps < copies <= 2 * engine.stats.steps


def test_a_look_at_a_drafted_token_is_noticed(kernels, monkeypatch):
    """A planted wait: the host looks at how much is verified."""
    honest = engine_module.make_bounded_rows

    def looks(batch, draft, lengths, *rest):
        int(lengths.sum())
        return honest(batch, draft, lengths, *rest)

    monkeypatch.setattr(engine_module, "make_bounded_rows", looks)
    with pretended() as device:
        run(make("fixed", move), requests("greedy"))
    assert sum(device.waits.values()) > device.waits["engine/device.py: host.copy_(packed)"]


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.item(), lambda x: x.cpu(), lambda x: x.nonzero(), lambda x: x[x > 1], lambda x: bool(x.any()),
        lambda x: torch.repeat_interleave(x), lambda x: x.copy_(torch.ones(1)), lambda x: torch.ones(1).to(ELSEWHERE),
        lambda x: x[torch.tensor([0])],
    ],
)  # fmt: skip
def test_what_waits_for_a_device_is_noticed(wait):
    with pretended() as device:
        wait(torch.ones(1, dtype=torch.int64, device=ELSEWHERE))
    assert device.waits


@pytest.mark.parametrize("look", [lambda x: x.tolist(), lambda x: x.numpy(force=True)])
def test_what_has_no_numbers_for_the_host_is_an_error(look):
    with pretended(), pytest.raises(RuntimeError, match="not supported for tensor subclasses"):
        look(torch.ones(1, dtype=torch.int64, device=ELSEWHERE))


def test_a_tensor_of_the_host_in_an_operation_of_the_device_is_an_error():
    with pretended(), pytest.raises(RuntimeError, match="meets a tensor of the host"):
        torch.ones(3, device=ELSEWHERE) + torch.ones(3)
