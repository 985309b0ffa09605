import math

import numpy as np
import pytest
import torch

from core.errors import ShapeError
from core.random import Purpose, philox
from core.statistics import chi_square_p_value
from kernels import noise
from kernels.noise import gumbel_noise

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
