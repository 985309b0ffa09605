"""The counted round is the one that docs/kernels.md shows, and its head stays within its share."""

from bench.gpu.counted_round import parts, table
from layers import ROOT


def share(name, *, is_sampled):
    counted = parts(is_sampled=is_sampled)
    return sum(part.seconds for part in counted if part.name == name) / sum(part.seconds for part in counted)


def test_the_page_shows_what_is_counted_now():
    assert "\n".join(table(is_sampled=True)) in (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8")


def test_the_head_is_within_one_and_a_half_percent_and_all_beside_verify_and_backbone_within_four():
    for is_sampled in (True, False):
        head = share("head", is_sampled=is_sampled)
        assert head <= 0.015
        assert head + share("verdict", is_sampled=is_sampled) <= 0.04


def test_a_greedy_head_writes_no_law_and_a_greedy_verdict_reads_none():
    sampled, greedy = ({part.name: part for part in parts(is_sampled=law)} for law in (True, False))
    for name in ("head", "verdict"):
        assert greedy[name].num_bytes < 0.7 * sampled[name].num_bytes
        del sampled[name], greedy[name]
    assert sampled == greedy
