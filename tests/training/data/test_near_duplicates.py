"""Near-duplicates are found whatever their place, and texts that only share a frame are kept."""

import random

import pytest

from training.data.near_duplicates import NUM_HASHES, NearDuplicates, normalised, signature

WORDS = [f"word{number}" for number in range(500)]


def text_of(seed, num_words=120):
    return " ".join(random.Random(seed).choices(WORDS, k=num_words))


def found(tmp_path, texts, threshold=0.8):
    duplicates = NearDuplicates(tmp_path / "signatures")
    for text in texts:
        duplicates.add(text)
    flags = duplicates.found(threshold).tolist()
    assert not (tmp_path / "signatures").exists()
    return flags


def runs(text):
    data = normalised(text).encode()
    return {data[start : start + 8] for start in range(len(data) - 7)}


def test_the_later_of_two_texts_that_are_nearly_the_same_is_found(tmp_path):
    texts = [text_of(seed) for seed in range(300)]
    copies = [f"{texts[seed].upper()}  \n and a word more" for seed in (3, 150, 299)]
    assert found(tmp_path, texts + copies) == [False] * 300 + [True] * 3


def test_each_of_many_copies_but_the_first_is_found(tmp_path):
    assert found(tmp_path, [text_of(1), text_of(2), text_of(1), text_of(1)]) == [False, False, True, True]


def test_texts_of_one_kin_are_no_duplicates_of_each_other_but_of_others(tmp_path):
    duplicates = NearDuplicates(tmp_path / "signatures")
    for kin in (7, 7, 0, 0, 8, 8):
        duplicates.add(text_of(1 if kin < 8 else 2), kin)
    assert duplicates.found(0.8).tolist() == [False, False, True, True, False, False]


def test_texts_that_share_half_of_their_words_are_kept(tmp_path):
    frame = text_of(0, 60)
    assert not any(found(tmp_path, [f"{frame} {text_of(seed, 60)}" for seed in range(1, 200)]))


def test_short_and_empty_looking_texts_are_compared_like_others(tmp_path):
    assert found(tmp_path, ["12+3", "12+4", "12+3"]) == [False, False, True]
    assert found(tmp_path, []) == []


@pytest.mark.parametrize("num_changed", [0, 2, 10, 40])
def test_signatures_estimate_the_share_of_common_runs(num_changed):
    words = text_of(5, 200).split()
    other = " ".join(["changed" if index < num_changed else word for index, word in enumerate(words)])
    text = " ".join(words)
    true = len(runs(text) & runs(other)) / len(runs(text) | runs(other))
    assert (signature(text) == signature(other)).mean() == pytest.approx(true, abs=4 * 0.5 / NUM_HASHES**0.5)
