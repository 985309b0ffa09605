"""The real engine under faults: every answer is, token for token, the one that an undisturbed engine gives."""

import pytest

from tests.faults.demo_pair import Known, accepted_and_lost, demo_jobs, undisturbed
from tests.faults.recovery import quantiles, recoveries
from tests.faults.storm import Scale, Storm

# Beyond the lease: somebody has to look, read the stream and compute the tokens so far again.
SLACK_S = 3.0


@pytest.fixture
def weather(plain, real):
    """Makes storms over jobs whose answers are known."""

    def make(world, redis, scale, lease_ms):
        world.lease_ms = lease_ms
        jobs = demo_jobs(scale.num_jobs, seed=1)
        known = Known(undisturbed(plain, jobs))
        return Storm(world, redis, scale, jobs, known.read, real)

    return make


async def test_answers_are_bit_for_bit_the_same_when_workers_are_killed_and_frozen(world, weather):
    storm = weather(world, None, Scale(24, 3, num_freezes=1, num_workers=2, num_at_once=6), lease_ms=1000)
    found, clients = await storm.run()
    assert found == []
    assert sum(bool(blow.held) for blow in storm.blows) >= 1
    assert min(accepted_and_lost(list(clients.logs.values()))) > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "scale", [Scale(60, 6, 1, 1, limit_s=300.0), Scale(600, 50, 5, 6, limit_s=1200.0)], ids=["60", "600"]
)
async def test_a_storm_leaves_every_answer_as_it_was_and_no_job_waits_long(own_world, own_redis, weather, scale):
    storm = weather(own_world, own_redis, scale, lease_ms=2000)
    found, clients = await storm.run()
    assert found == []
    waited = recoveries(storm.blows, clients).seconds["kill"]
    assert len(waited) >= scale.num_kills // 2
    assert quantiles(waited).p99_s <= storm.world.lease_ms / 1000 + SLACK_S
