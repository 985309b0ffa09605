"""Selection inside Triton kernels: where in the falling order of a row's values a cut falls, without sorting.

A value is given a key, a word that is less the larger the value. Digits of the sought key are found from the first on,
four bits at a time, each by one pass that adds up what lies under each of sixteen digits: eight passes. Callers make
them short by leaving out what cannot matter: a histogram of how far values lie below the largest tells.
"""

# Kernel arguments bear no annotations: Triton reads them as code.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls

from kernels.jit import jit, tl


@jit()
def load_value(row, ids, vocab, shift, heat):
    """Return values f32 of a row at ids, (x - shift) / heat, -inf past its end."""
    x = tl.load(row + ids, mask=ids < vocab, other=float("-inf"))
    return (x - shift) / heat


@jit()
def key_of(value):
    """Return the key uint32 of values f32: in the opposite order, equal for equals, zeros of both signs too."""
    bits = tl.where(value == 0.0, 0.0, value).to(tl.int32, bitcast=True)
    ordered = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (0x7FFFFFFF - ordered).to(tl.uint32, bitcast=True)


@jit()
def value_of(key):
    """Return the value f32 that has a key, given as int64."""
    ordered = (0x7FFFFFFF - key).to(tl.int32)
    return tl.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered).to(tl.float32, bitcast=True)


@jit()
def bucket_of(value, top):
    """Return how many eighths values lie below the largest, 255 from 32 on."""
    return tl.minimum((top - tl.maximum(value, top - 64.0)) * 8.0, 255.0).to(tl.int32)


@jit()
def descend(row, num, shift, heat, top, share, target, WEIGHED: tl.constexpr, TILE: tl.constexpr):
    """Return the least key up to which a row's first `num` values add up to a target, and the sum before that key.

    WEIGHED  whether a value counts exp(value - top), and the target is `share` times the sum of all that the row's
             owner keeps, given as `target`; else each counts 1, and `target` is the number wanted, at most num
    Sums are float32, by tiles, in ascending place.
    """
    goal = target
    if WEIGHED:
        # The first value is reached whatever the share: it weighs 1.
        goal = tl.maximum(target * share, 1e-30)
    digit = tl.arange(0, 16)
    prefix = tl.zeros((1,), tl.uint32)
    before = 0.0
    for level in tl.static_range(8):
        sums = tl.zeros((16,), tl.float32)
        for start in range(0, num, TILE):
            place = start + tl.arange(0, TILE)
            value = load_value(row, place, num, shift, heat)
            distance = key_of(value) - prefix
            is_under = (key_of(value) >= prefix) & (place < num)
            if level > 0:
                is_under = is_under & (distance < (1 << (32 - 4 * level)))
            weight = tl.where(is_under, 1.0, 0.0)
            if WEIGHED:
                weight = tl.where(is_under, tl.exp(value - top), 0.0)
            own = (distance >> (28 - 4 * level)).to(tl.int32)
            sums += tl.sum(tl.where(own[:, None] == digit[None, :], weight[:, None], 0.0), 0)
        found = tl.min(tl.where(before + tl.cumsum(sums, 0) >= goal, digit, 15), 0)
        before += tl.sum(tl.where(digit < found, sums, 0.0), 0)
        prefix += found.to(tl.uint32) << (28 - 4 * level)
    return tl.sum(prefix.to(tl.int64), 0), before
