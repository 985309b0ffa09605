import numpy as np
import pytest
import torch

from core.random import Purpose, derive_coupled_key, derive_nonce, philox, round_uniforms, uniforms
from core.statistics import chi_square_p_value

# Random123, kat_vectors, philox4x32-10: counter, key, expected.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text):
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize("array", [lambda w: np.array([w]), lambda w: torch.tensor([w])], ids=["numpy", "torch"])
@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS, ids=["zeros", "ones", "pi"])
def test_philox_knows_the_published_answers(array, counter, key, expected):
    result = philox(tuple(map(array, words(counter))), tuple(map(array, words(key))))
    assert [int(word[0]) for word in result] == words(expected)


def test_uniforms_stay_below_one():
    assert uniforms(np.array([0, 255, 256, 2**32 - 1])).tolist() == [0.0, 0.0, 2.0**-24, 1 - 2.0**-24]
    assert uniforms(np.array([1])).dtype == np.float32


def one_word(nonce, position, anchor, attempt, purpose):
    counter = (np.array([0]), np.array([position]), np.array([anchor]), np.array([attempt << 8 | purpose]))
    key = (np.array([nonce & 0xFFFFFFFF]), np.array([nonce >> 32]))
    return float(uniforms(philox(counter, key)[0])[0])


def test_a_round_reads_the_counters_it_promises():
    nonce, anchor, attempt, width = 0xFEDCBA9876543210, 41, 3, 4
    draft, verdict = round_uniforms(np.array([nonce], dtype=np.uint64), np.array([anchor]), np.array([attempt]), width)
    for j in range(width):
        assert draft[0, j] == one_word(nonce, anchor + 1 + j, anchor, attempt, Purpose.DRAFT)
        assert verdict[0, j] == one_word(nonce, anchor + 1 + j, anchor, attempt, Purpose.ACCEPT)
    assert verdict[0, width] == one_word(nonce, anchor, anchor, attempt, Purpose.TARGET)


def test_rounds_do_not_depend_on_their_batch():
    nonce, anchors, attempts = np.array([5, 6, 7], dtype=np.uint64), np.array([1, 2, 3]), np.array([0, 1, 0])
    together = round_uniforms(nonce, anchors, attempts, 3)
    for b in range(3):
        alone = round_uniforms(nonce[b : b + 1], anchors[b : b + 1], attempts[b : b + 1], 3)
        assert [part[b].tolist() for part in together] == [part[0].tolist() for part in alone]


def test_no_number_is_used_twice():
    nonces, anchors, attempts = (axis.ravel() for axis in np.meshgrid(np.arange(10), np.arange(10), np.arange(3)))
    drawn = np.concatenate(round_uniforms(nonces, anchors, attempts, 4), axis=1)
    # 2700 draws of 24 bits: a few coincide by chance (0.2 expected), a shared counter would show hundreds.
    assert drawn.size - len(np.unique(drawn)) <= 3


def test_without_drafts_there_is_still_a_next_token():
    draft, verdict = round_uniforms(np.array([1, 2], dtype=np.uint64), np.array([0, 0]), np.array([0, 0]), 0)
    assert (draft.shape, verdict.shape) == ((2, 0), (2, 1))


def test_uniforms_are_uniform():
    draws = round_uniforms(np.arange(4000, dtype=np.uint64), np.full(4000, 9), np.zeros(4000, dtype=np.int64), 2)
    for column in (*draws[0].T, *draws[1].T):
        counts = np.histogram(column, bins=32, range=(0, 1))[0]
        assert chi_square_p_value(counts, np.full(32, 1 / 32)) > 1e-5


def test_nonces_differ_by_every_part():
    base = derive_nonce(b"job", 0, 0)
    assert 0 <= base < 2**64
    assert len({base, derive_nonce(b"joc", 0, 0), derive_nonce(b"job", 1, 0), derive_nonce(b"job", 0, 1)}) == 4


def test_the_coupled_key_of_a_job_is_its_nonce_s_alone_and_no_nonce_of_its_attempts():
    keys = {derive_coupled_key(b"job"), derive_coupled_key(b"joc"), derive_nonce(b"job", 0, 1)}
    assert len(keys) == 3
    assert all(0 <= key < 2**64 for key in keys)
