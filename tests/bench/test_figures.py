"""Figures of a report: drawn from its rows, and only what was measured."""

import json

import msgspec
import pytest
from matplotlib import pyplot as plt

from bench.figures import draw_figures, draw_lengths, draw_speed, draw_step
from bench.report import describe_run, write_json
from bench.summary import Row
from core.statistics import Interval


def row(mode, concurrency, **fields):
    speed = 100.0 * concurrency
    told = {
        "tokens_per_s": Interval(speed, speed - 5, speed + 5),
        "tokens_per_s_per_user": 100.0,
        "first_token_ms": (1.0, 2.0),
        "gap_ms": (1.0, 2.0),
        "accepted_length": 2.0,
        "verify_length": 3.0,
        "drafts": 4.0,
        "steps_per_s": 5.0,
        "part_ms": {"verify": 2.0, "draft": 1.0},
        "ratio": Interval(1.5, 1.2, 1.9),
        "ratio_per_user": None,
        "rates": [speed],
    } | fields
    return Row(mode=mode, concurrency=concurrency, temperature=1.0, **told)


ROWS = [row(mode, load) for load in (1, 4) for mode in ("off", "fixed:3")]
OVER_HTTP = {"accepted_length": None, "verify_length": None, "drafts": None, "steps_per_s": None, "part_ms": {}}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_each_mode_has_a_curve_with_its_name():
    figure = draw_speed(ROWS)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["off", "fixed:3"]
    assert figure.axes[0].get_xlabel() == "tokens/s of one user"


def test_the_parts_of_a_step_are_stacked_in_their_order():
    figure = draw_step(ROWS)
    assert [axis.get_title() for axis in figure.axes] == ["1 at once", "4 at once"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["verify", "draft"]
    heights = {(bar.get_y(), bar.get_height()) for bar in figure.axes[0].patches}
    assert heights == {(0.0, 1.0), (1.0, 2.0)}


def test_what_was_not_measured_is_not_drawn():
    rows = [row("server", 1, **OVER_HTTP)]
    assert draw_lengths(rows) is None
    assert draw_step(rows) is None
    assert draw_speed(rows) is not None


def test_a_report_is_enough_to_draw_its_figures_again(tmp_path):
    path = tmp_path / "load.json"
    write_json(
        path, describe_run() | {"rows": msgspec.to_builtins([row("off", 1, tokens_per_s_per_user=float("nan")), *ROWS])}
    )
    told = json.loads(path.read_text())
    assert told["rows"][0]["tokens_per_s_per_user"] is None
    assert told["versions"].keys() == {"specd", "torch", "numpy"}
    rows = msgspec.convert(told["rows"][1:], list[Row])
    drawn = draw_figures(rows, tmp_path / "load", "demo")
    assert [one.name for one in drawn] == ["load_speed_t1.png", "load_lengths_t1.png", "load_step_t1.png"]
    assert all(one.stat().st_size > 5000 for one in drawn)
