"""Counter-based randomness: Philox4x32-10, and which draw of which round reads which counter.

A draw is a pure function of (key, counter): nothing is advanced, so batches, restarts and other requests cannot shift
it. The arithmetic is plain int64 that wraps around, so one implementation serves numpy arrays and torch tensors; this
module imports no torch. Who may share a key and why a position alone is not enough: docs/exactness.md.

Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"; constants as in Random123.
"""

import hashlib
from enum import IntEnum
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from core.planning import F32

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
WORD = 0xFFFFFFFF
# The same as arrays [2, 1, 1], and the rounds [10, 1, 1, 1].
_FACTORS, _STEPS = (np.array(pair, dtype=np.uint64).reshape(2, 1, 1) for pair in (MULTIPLIERS, KEY_STEPS))
_ROUNDS = np.arange(ROUNDS, dtype=np.uint64).reshape(-1, 1, 1, 1)


class _Integers(Protocol):
    """An int64 numpy array or torch tensor, as far as Philox needs one."""

    def __add__(self, other: Any, /) -> Any: ...
    def __mul__(self, other: Any, /) -> Any: ...
    def __xor__(self, other: Any, /) -> Any: ...
    def __and__(self, other: Any, /) -> Any: ...
    def __rshift__(self, other: Any, /) -> Any: ...


Integers = TypeVar("Integers", bound=_Integers)


class Purpose(IntEnum):
    """What a draw decides; part of the counter, so that no two decisions ever share a number.

    TARGET is the draw of a round's last token. It is drawn from the residual or from the target's own law, never from
    both, so one number is enough for the two; RESIDUAL is kept for verifiers that need their own. GUMBEL is the
    noise of the coupled verifier (kernels/noise.py).
    """

    DRAFT = 0
    ACCEPT = 1
    RESIDUAL = 2
    TARGET = 3
    GUMBEL = 4


def philox(
    counter: tuple[Integers, Integers, Integers, Integers], key: tuple[Integers, Integers]
) -> tuple[Integers, Integers, Integers, Integers]:
    """Return four random words in 0..2^32 - 1 for each counter and key.

    counter, key  int64 arrays or tensors of words in 0..2^32 - 1 that broadcast together; of one dimension or more,
                  because numpy warns when a scalar wraps around
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        # A 32 x 32 bit product may exceed int64: it wraps, its 64 bits are right, and masks drop the sign.
        left, right = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((right >> 32) & WORD) ^ c1 ^ k0,
            right & WORD,
            ((left >> 32) & WORD) ^ c3 ^ k1,
            left & WORD,
        )
        k0, k1 = (k0 + KEY_STEPS[0]) & WORD, (k1 + KEY_STEPS[1]) & WORD
    return c0, c1, c2, c3


def uniforms(words: NDArray[np.int64]) -> F32:
    """Return float32 in [0, 1): the top 24 bits of each word, each value exact, 1 never reached."""
    return (words >> 8).astype(np.float32) * np.float32(2.0**-24)


def round_uniforms(
    nonce: NDArray[np.uint64] | NDArray[np.int64],
    anchors: NDArray[np.int64],
    attempts: NDArray[np.int64],
    width: int,
) -> tuple[F32, F32]:
    """Return all numbers that one round of B sequences may use: draft f32 [B, G], verdict f32 [B, G + 1].

    nonce     [B]; 64 random bits of each request, never shared by two
    anchors   [B]; absolute position of the last committed token
    attempts  [B]; raised when a round is abandoned before its verdict
    width     G, most drafts
    Column j of draft, and of verdict for j < G, belongs to the draft at position anchor + 1 + j. The last column of
    verdict draws the round's last token, from the residual after a rejection, else from the target's law.
    Key: the nonce. Counter: (0, position, anchor, attempt << 8 | purpose).
    """
    offsets = np.arange(1, width + 1)
    position = np.concatenate((offsets, offsets, [0])) + anchors[:, None]  # [B, 2G + 1]
    purpose = np.repeat([Purpose.DRAFT, Purpose.ACCEPT, Purpose.TARGET], [width, width, 1])
    bits = nonce.astype(np.uint64)[:, None]
    counter = np.zeros((4, *position.shape), dtype=np.uint64)
    counter[1] = position & WORD
    counter[2] = anchors[:, None] & WORD
    counter[3] = ((attempts[:, None] << 8) | purpose) & WORD
    numbers = uniforms(_first_words(counter, np.stack((bits & np.uint64(WORD), bits >> np.uint64(32)))))
    return np.ascontiguousarray(numbers[:, :width]), np.ascontiguousarray(numbers[:, width:])


def _first_words(counter: NDArray[np.uint64], key: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the first word of `philox`, [B, M], for counters [4, B, M] and keys [2, B, 1].

    A step asks for few numbers, where the number of numpy calls is all that costs: so a round's two products are one.
    """
    keys = (key + _ROUNDS * _STEPS) & np.uint64(WORD)
    even, odd = counter[0::2], counter[1::2]
    for round_key in keys:
        products = even * _FACTORS
        even = (products >> np.uint64(32))[::-1] ^ odd ^ round_key
        odd = (products & np.uint64(WORD))[::-1]
    return even[0].astype(np.int64)


def derive_nonce(job_nonce: bytes, n_index: int, epoch: int) -> int:
    """Return the 64-bit nonce of one child of a job in one claim: the first 64 bits of sha256.

    n_index and epoch enter as eight big-endian bytes each, so that different triples never spell the same input.
    """
    digest = hashlib.sha256(job_nonce + n_index.to_bytes(8, "big") + epoch.to_bytes(8, "big")).digest()
    return int.from_bytes(digest[:8], "big")


def derive_coupled_key(job_nonce: bytes) -> int:
    """Return the 64-bit key of the coupled verifier for a job without a seed: the first 64 bits of sha256.

    It does not depend on the claim: a job that is taken over goes on with the noise it began with.
    """
    return int.from_bytes(hashlib.sha256(job_nonce + b"coupled").digest()[:8], "big")
