import math

import numpy as np
import pytest
import torch

from core.errors import ShapeError
from core.random import Purpose, philox
from core.statistics import chi_square_p_value
from kernels import noise
from kernels.jit import jit, tl
from kernels.noise import coupled_keys, gumbel_noise, gumbel_noise_triton
from kernels.philox import gumbel, gumbel_words, rough_gumbel, row_words
from kernels.philox import philox as philox_kernel

CPU = torch.device("cpu")
KEYS = np.array([0, 7, 1 << 32, (1 << 64) - 1, 0x9E3779B97F4A7C15], dtype=np.uint64)
POSITIONS = np.array([[0, 1, 2], [5, 6, 7], [0, 1, 2], [131071, 0, 3], [2**32 - 1, 12, 13]])
CHILDREN = np.array([0, 1, 0, 2, 127])


def drawn_by_hand(key, position, child, token):
    """Return one number from the definition, word by word."""
    counter = (np.array([word]) for word in (token // 4, position, child, int(Purpose.GUMBEL)))
    words = philox(tuple(counter), (np.array([key % 2**32]), np.array([key >> 32])))
    return -math.log(-math.log((int(words[token % 4][0]) + 0.5) / 2**32))


@pytest.mark.parametrize("vocab", [1, 63, 100, 257])
def test_every_number_is_the_one_its_counter_names(vocab):
    numbers = gumbel_noise(KEYS, POSITIONS, CHILDREN, vocab, CPU)
    assert numbers.shape == (5, 3, vocab)
    for (b, j), position in np.ndenumerate(POSITIONS):
        expected = [drawn_by_hand(int(KEYS[b]), position, CHILDREN[b], v) for v in range(vocab)]
        assert numbers[b, j].tolist() == pytest.approx(expected, rel=2e-7)


@pytest.mark.parametrize("vocab", [1, 63, 1000, 4099])
def test_no_number_hangs_on_what_else_is_drawn(vocab, monkeypatch):
    together = gumbel_noise(KEYS, POSITIONS, CHILDREN, vocab, CPU)
    longer = gumbel_noise(KEYS, POSITIONS, CHILDREN, vocab + 13, CPU)
    assert torch.equal(longer[:, :, :vocab], together)
    for (b, j), position in np.ndenumerate(POSITIONS):
        alone = gumbel_noise(KEYS[b : b + 1], np.array([[position]]), CHILDREN[b : b + 1], vocab, CPU)
        assert torch.equal(alone[0, 0], together[b, j])
    monkeypatch.setattr(noise, "GROUPS_AT_ONCE", 2 * vocab)
    assert torch.equal(gumbel_noise(KEYS, POSITIONS, CHILDREN, vocab, CPU), together)


def test_key_halves_position_and_child_each_give_other_noise():
    keys = np.array([1, 2, 1 << 32, 1, 1], dtype=np.uint64)
    positions = np.array([[3], [3], [3], [4], [3]])
    numbers = gumbel_noise(keys, positions, np.array([0, 0, 0, 0, 1]), 64, CPU)[:, 0]
    assert len({tuple(row) for row in numbers.tolist()}) == 5
    assert len(set(numbers.flatten().tolist())) > 0.99 * numbers.numel()


def test_extreme_words_give_finite_noise():
    ends = torch.tensor([[0], [2**32 - 1]])
    values = noise._gumbel((ends, ends, ends, ends))
    assert values.isfinite().all()
    assert (float(values.min()), float(values.max())) == pytest.approx((-3.13, 22.874), abs=1e-3)


def test_noise_follows_the_gumbel_law():
    size, cells = 4000, 20
    numbers = gumbel_noise(np.arange(size, dtype=np.uint64), np.tile([8, 9], (size, 1)), np.zeros(size, int), 8, CPU)
    # exp(-exp(-g)) is uniform: equal cells, counted for every token and position.
    cell = ((-(-numbers.double()).exp()).exp() * cells).long()  # [size, 2, 8]
    p_values = [
        chi_square_p_value(column.bincount(minlength=cells), [1 / cells] * cells) for column in cell.flatten(1).t()
    ]
    # 16 tests at a level of 1e-3 in all; a cell off by a fifth would be found with certainty.
    assert min(p_values) > 1e-3 / len(p_values)


@pytest.mark.parametrize("pair", [((0, 0), (0, 1)), ((0, 3), (0, 4)), ((0, 2), (1, 2))], ids=["word", "group", "place"])
def test_neighbouring_numbers_are_independent(pair):
    size, cells = 20000, 5
    numbers = gumbel_noise(np.arange(size, dtype=np.uint64), np.tile([8, 9], (size, 1)), np.zeros(size, int), 8, CPU)
    cell = ((-(-numbers.double()).exp()).exp() * cells).long()
    (j, v), (i, w) = pair
    joint = (cell[:, j, v] * cells + cell[:, i, w]).bincount(minlength=cells**2)
    assert chi_square_p_value(joint, [1 / cells**2] * cells**2) > 1e-3


@pytest.mark.parametrize(
    ("keys", "positions", "children"),
    [(KEYS[:1], POSITIONS, CHILDREN), (KEYS, POSITIONS[0], CHILDREN), (KEYS, POSITIONS, CHILDREN[:1])],
    ids=["keys", "positions", "n_index"],
)
def test_wrong_shapes_are_told(keys, positions, children):
    with pytest.raises(ShapeError):
        gumbel_noise(keys, positions, children, 8, CPU)


# --- Triton ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vocab", [1, 63, 1027])
def test_triton_makes_the_very_numbers(vocab, poisoned):
    keys = coupled_keys(KEYS, CHILDREN, torch.tensor([0, 5, 100, 2**32 - 3, 7]))
    found = gumbel_noise_triton(keys, torch.from_numpy(POSITIONS), vocab)
    absolute = POSITIONS + keys.first.numpy()[:, None]
    assert torch.equal(found, gumbel_noise(KEYS, absolute, CHILDREN, vocab, CPU))


def test_triton_makes_nothing_for_nobody():
    keys = coupled_keys(KEYS[:0], CHILDREN[:0], torch.zeros(0, dtype=torch.int64))
    assert gumbel_noise_triton(keys, torch.zeros(0, 3, dtype=torch.int64), 8).shape == (0, 3, 8)


@jit()
def words_kernel(numbers, out, SIZE: tl.constexpr):
    """Write the words of Philox for counters (i, 2i + 1, 7, 4) and a key, and those of tokens of one position."""
    place = tl.arange(0, SIZE)
    k0, k1 = tl.load(numbers).to(tl.uint32), tl.load(numbers + 1).to(tl.uint32)
    c0 = place.to(tl.uint32)
    w0, w1, w2, w3 = philox_kernel(c0, c0 * 2 + 1, 7, 4, k0, k1)
    tl.store(out + place, w0.to(tl.int64))
    tl.store(out + SIZE + place, w1.to(tl.int64))
    tl.store(out + 2 * SIZE + place, w2.to(tl.int64))
    tl.store(out + 3 * SIZE + place, w3.to(tl.int64))
    tl.store(out + 4 * SIZE + place, row_words(k0, k1, k0, k1, 64, SIZE).to(tl.int64))
    tl.store(out + 5 * SIZE + place, gumbel_words(k0, k1, k0, k1, 64 + place).to(tl.int64))


@pytest.mark.parametrize("key", [(0, 0), (2**32 - 1, 2**32 - 1), (0x9E3779B9, 0x7F4A7C15)], ids=str)
def test_triton_has_the_words_of_philox_bit_for_bit(key):
    size = 256
    found = torch.zeros(6, size, dtype=torch.int64)
    words_kernel[(1,)](torch.tensor(key), found, SIZE=size)
    i, one = np.arange(size), np.ones(size, dtype=np.int64)
    right = philox((i, (2 * i + 1) % 2**32, 7 * one, 4 * one), (one * key[0], one * key[1]))
    assert np.array_equal(found[:4].numpy(), np.stack(right))
    ids = 64 + i
    words = np.stack(philox((ids // 4, one * key[0], one * key[1], 4 * one), (one * key[0], one * key[1])))
    assert np.array_equal(found[4].numpy(), words[ids % 4, i])
    assert torch.equal(found[5], found[4])


@jit()
def gumbel_kernel(words, out, SIZE: tl.constexpr):
    place = tl.arange(0, SIZE)
    word = tl.load(words + place).to(tl.uint32)
    tl.store(out + place, gumbel(word))
    tl.store(out + SIZE + place, rough_gumbel(word))


def test_triton_knows_noise_roughly_for_every_word():
    words = torch.randint(2**32, (1024,), generator=torch.Generator().manual_seed(0))
    middle = torch.tensor([2**31 - 1, 2**31, 2**31 + 1])
    words[:67] = torch.cat((2 ** torch.arange(32), 2**32 - 2 ** torch.arange(32), middle))
    noise = torch.zeros(2, 1024)
    gumbel_kernel[(1,)](words, noise, SIZE=1024)
    expected = -(-((words.double() + 0.5) / 2**32).log()).log()
    assert torch.equal(noise[0], expected.float())
    torch.testing.assert_close(noise[1].double(), expected, atol=1e-5, rtol=0)
