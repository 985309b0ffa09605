"""Philox4x32-10 and Gumbel noise inside Triton kernels: the very numbers of core/random.py and kernels/noise.py.

Numbers are words of 32 bits; constants are those of Random123, as in core/random.py.
"""

# Kernel arguments bear no annotations: Triton reads them as code.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls

from kernels.jit import jit, tl

# Purpose.GUMBEL of core/random.py stands as a literal in `gumbel_words`: kernels read no Python values.
WORDS = 4


@jit()
def philox(c0, c1, c2, c3, k0, k1):
    """Return four words uint32 for counters and keys uint32 that broadcast with c0 (`core.random.philox`)."""
    zero = (c0 + c1) * 0
    c0, c1, c2, c3, k0, k1 = c0 + zero, c1 + zero, c2 + zero, c3 + zero, k0 + zero, k1 + zero
    for _ in tl.static_range(10):
        left_high, left_low = tl.umulhi(c0, 0xD2511F53), c0 * 0xD2511F53
        right_high, right_low = tl.umulhi(c2, 0xCD9E8D57), c2 * 0xCD9E8D57
        c0 = right_high ^ c1 ^ k0
        c1 = right_low
        c2 = left_high ^ c3 ^ k1
        c3 = left_low
        k0 = k0 + 0x9E3779B9
        k1 = k1 + 0xBB67AE85
    return c0, c1, c2, c3


@jit()
def gumbel_words(low, high, position, child, ids):
    """Return the words uint32 that give tokens `ids` their noise: every fourth counter is computed once per token.

    low, high, position, child  uint32 that broadcast with ids
    """
    w0, w1, w2, w3 = philox((ids // 4).to(tl.uint32), position, child, 4, low, high)
    place = ids % 4
    return tl.where(place < 2, tl.where(place == 0, w0, w1), tl.where(place == 2, w2, w3))


@jit()
def row_words(low, high, position, child, start, TILE: tl.constexpr):
    """Return `gumbel_words` uint32 [TILE] of the tokens start .. start + TILE - 1 of one row, start a multiple of 4.

    low, high, position, child  uint32 scalars
    """
    group = (start // 4 + tl.arange(0, TILE // 4)).to(tl.uint32)
    w0, w1, w2, w3 = philox(group, position, child, 4, low, high)
    return tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), (TILE,))


@jit()
def gumbel(words):
    """Return noise f32 of words, as kernels/noise.py makes it: both logarithms in float64, rounded once."""
    uniform = (words.to(tl.float64) + 0.5) * 2.3283064365386963e-10
    return (-tl.log(-tl.log(uniform))).to(tl.float32)


@jit()
def rough_gumbel(words):
    """Return noise f32 of words within 1e-5, by float32 logarithms alone.

    Half of all numbers, the large ones, are those whose uniform lies so near 1 that float32 cannot tell: there the
    distance v to 1 is used, log(1 - v) = -v where 1 - v rounds to 1, else log(w) v / (1 - w), w = 1 - v rounded
    (Higham 2002, Accuracy and Stability, 1.14.1).
    """
    is_high = words >= 0x80000000
    uniform = (words.to(tl.float32) + 0.5) * 2.3283064365386963e-10
    distance = ((words ^ 0xFFFFFFFF).to(tl.float32) + 0.5) * 2.3283064365386963e-10
    below = tl.where(is_high, 1.0 - distance, 0.5)
    is_one = below == 1.0
    ratio = tl.log(below) * (distance / tl.where(is_one, 1.0, 1.0 - below))
    rate = tl.where(is_high, tl.where(is_one, distance, -ratio), -tl.log(tl.where(is_high, 0.5, uniform)))
    return -tl.log(rate)
