"""What a claim asks of the engine: fresh draws in every attempt, the same coupled noise in all of them."""

import msgspec

from core.random import derive_coupled_key
from service.storage.claims import Claim, Entry
from service.takeover import to_request
from tests.service.jobs import new_job


def claim(epoch=1, n_index=0, streamed=(), **fields):
    job = msgspec.structs.replace(new_job(id="a" * 32, **fields), n_index=n_index)
    return Claim(Entry("1-0", job.id), job, epoch, streamed, is_cancelled=False, attempts=1)


def test_every_attempt_and_every_choice_draws_anew():
    claims = [claim(epoch, n_index) for epoch in (1, 2) for n_index in (0, 1)]
    assert len({to_request(one, "rejection").nonce for one in claims}) == 4


def test_a_seed_asks_for_the_coupled_verifier_with_the_same_key_in_every_attempt():
    requests = [to_request(claim(epoch, seed=7), verifier) for epoch in (1, 2) for verifier in ("rejection", "coupled")]
    assert {request.coupled_key for request in requests} == {7}


def test_seeds_are_64_bits_without_a_sign():
    assert to_request(claim(seed=-1), "rejection").coupled_key == 2**64 - 1


def test_without_a_seed_the_configured_verifier_decides():
    assert to_request(claim(), "rejection").coupled_key is None
    keys = {to_request(claim(epoch, n_index), "coupled").coupled_key for epoch in (1, 2) for n_index in (0, 1)}
    assert keys == {derive_coupled_key(b"n" * 16)}


def test_the_salt_travels_to_the_prefix_cache():
    salted = msgspec.structs.replace(claim(), job=msgspec.structs.replace(new_job(), cache_salt="tenant"))
    assert to_request(salted, "rejection").cache_salt == "tenant"
