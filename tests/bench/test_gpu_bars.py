"""Bars are met by measurements on a device that reach them, all of them, and by nothing else."""

import msgspec
import pytest

from bench.gpu.bars import DECODE_BATCHES, FEW_AT_ONCE, MOST_AT_ONCE, all_bars
from bench.gpu.drawing import draw_all
from bench.gpu.report import write_report
from bench.gpu.results import Circumstances, Entry, StageResults, write_results
from bench.summary import Row
from core.errors import SpecdError
from core.statistics import Interval

GPU = Circumstances("a GPU", "a machine", {"torch": "2.13.0"}, is_dry_run=False)


def stage(name, values, circumstances=GPU):
    return StageResults(name, circumstances, entries={key: Entry("done", one) for key, one in values.items()})


def row(mode, at_once, ratio):
    interval = Interval(ratio, ratio, ratio)
    return msgspec.to_builtins(
        Row(
            mode,
            at_once,
            1.0,
            Interval(100.0 * at_once, 90.0, 110.0),
            100.0,
            None,
            None,
            2.0,
            3.0,
            7.0,
            10.0,
            {},
            interval,
            interval,
            [],
        )
    )


def measured(circumstances=GPU, *, decode=0.8, step=1.3, head=0.01, beside=0.03, few=1.7, most=1.1):
    timing = {"median_us": 10.0, "rows": 1, "sequences": 1, "context": 512, "weights_us": 8.0}
    parts = {"verify_us": 90.0, "backbone_us": 7.0, "head_us": 1.0, "unmarked_us": 2.0, "round_marked_us": 100.0}
    ratios = dict.fromkeys(FEW_AT_ONCE, few) | {MOST_AT_ONCE: most}
    stages = [
        stage("numerics", {"modules without a case": {"modules": []}, "admit/fixed/B1": {}}, circumstances),
        stage(
            "kernels",
            {
                f"attention/decode/B{batch}-C4096": {"share_of_copy_bandwidth": decode, "share_of_floor": decode}
                for batch in DECODE_BATCHES
            },
            circumstances,
        ),
        stage(
            "step",
            {f"{model}/graphs/rows1/B1-C512": timing | {"ratio_to_weights": step} for model in ("4B", "8B")},
            circumstances,
        ),
        stage(
            "round",
            {"B128": parts | {"sequences": 128, "head_share": head, "beside_share": beside}},
            circumstances,
        ),
        stage(
            "curve",
            {
                str(at_once): {"rows": [row("off", at_once, 1.0), row("load_adaptive", at_once, ratio)]}
                for at_once, ratio in ratios.items()
            },
            circumstances,
        ),
    ]
    return {one.stage: one for one in stages}


def verdicts(results):
    return [bar.verdict for bar in all_bars(results)]


def test_bars_are_met_by_what_reaches_them():
    assert verdicts(measured()) == ["met"] * 8


@pytest.mark.parametrize(
    ("missing_by", "which"),
    [
        ({"decode": 0.74}, [1]),
        ({"step": 1.5}, [3]),
        ({"step": 1.7}, [2, 3]),
        ({"head": 0.016}, [4]),
        ({"beside": 0.041}, [5]),
        ({"few": 1.59}, [6]),
        ({"most": 0.99}, [7]),
    ],
)
def test_a_bar_is_missed_by_what_does_not_reach_it(missing_by, which):
    assert [place for place, verdict in enumerate(verdicts(measured(**missing_by))) if verdict != "met"] == which
    assert {verdicts(measured(**missing_by))[place] for place in which} == {"missed"}


def test_nothing_is_met_or_missed_by_a_dry_run():
    dry = msgspec.structs.replace(GPU, device="CPU", is_dry_run=True)
    assert verdicts(measured(dry)) == ["not run"] * 8
    assert verdicts(measured(dry, decode=0.1)) == ["not run"] * 8


def test_nothing_is_met_by_a_part_of_what_a_bar_asks_for():
    results = measured()
    del results["curve"].entries["8"]
    del results["kernels"].entries["attention/decode/B256-C4096"]
    found = all_bars(results)
    assert [found[place].verdict for place in (1, 6)] == ["not run", "not run"]
    assert "256: not measured" in found[1].found


def test_a_failed_case_misses_the_bar_of_numerics():
    results = measured()
    results["numerics"].entries["reject/sampled/B1"] = Entry("failed", reason="too far")
    assert all_bars(results)[0].verdict == "missed"


def test_a_kernel_without_a_case_keeps_numerics_from_being_met():
    results = measured()
    results["numerics"].entries["modules without a case"] = Entry("done", {"modules": ["rope_store"]})
    assert all_bars(results)[0].verdict == "not run"
    assert "rope_store" in all_bars(results)[0].found


def test_a_report_of_a_device_has_figures_and_the_verdicts(tmp_path):
    for one in measured(decode=0.5).values():
        write_results(tmp_path, one)
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert "a dry run" not in text.lower()
    assert "**missed**" in text
    assert "| transformers | not run |" in text
    assert {path.name for path in tmp_path.glob("*.png")} >= {
        "kernels.png",
        "step.png",
        "round.png",
        "curve_speed_t1.png",
    }


def test_results_of_a_dry_run_are_never_drawn(tmp_path):
    dry = msgspec.structs.replace(GPU, is_dry_run=True)
    with pytest.raises(SpecdError, match="nothing to draw"):
        draw_all(measured(dry), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_results_of_different_devices_make_no_report(tmp_path):
    results = measured()
    other = msgspec.structs.replace(GPU, device="another GPU")
    results["round"] = StageResults("round", other, entries=results["round"].entries)
    for one in results.values():
        write_results(tmp_path, one)
    with pytest.raises(SpecdError, match="different devices"):
        write_report(tmp_path)
