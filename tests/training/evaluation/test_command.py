"""`specd eval` from the command line to its files."""

import json

import msgspec
import pytest

from cli.eval import named_drafters
from cli.main import main
from core.errors import ConfigError
from layers import ROOT
from training.evaluation.report import Report


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval")
    tasks = folder / "eval_datasets"
    tasks.mkdir()
    rows = [{"turns": ["What is 12 + 30?"], "answer": 42}, {"turns": ["Do you like rivers?", "Why?"]}]
    (tasks / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    status = main(
        [
            *("eval", str(tasks), "--max-tokens", "48", "--every-turn"),
            *("--drafter", f"mine={ROOT / 'models/demo/dspark'}", "--drafter", "ngram"),
            *("--temperature", "1", "--thresholds", "0.5", "--output", str(folder / "out")),
        ]
    )
    assert status == 0
    return folder / "out"


def test_it_writes_a_report_that_can_be_read_again(written):
    report = msgspec.json.decode((written / "report.json").read_bytes(), type=Report)
    assert report.max_drafts == {"mine": 7, "ngram": 7}
    cells = {(cell.task, cell.drafter): cell for cell in report.cells}
    dspark, ngram = cells["gsm8k", "mine"], cells["gsm8k", "ngram"]
    assert 1.0 <= ngram.acceptance.length.estimate < dspark.acceptance.length.estimate <= 8.0
    assert set(dspark.confidence) == {"raw", "calibrated"}
    assert set(ngram.confidence) == {"raw"}
    assert cells["gsm8k", "mine"].right[""].whole == 1
    assert len(cells["gsm8k", "mine"].prefix_hits) == 2
    (difference,) = report.differences
    assert (difference.drafter, difference.other) == ("mine", "ngram")
    assert difference.length.estimate > 0
    sweep = [point for point in report.sweep if point.drafter == "mine"]
    assert [point.threshold for point in sweep] == [0.0, 0.5]
    assert sweep[1].verified < sweep[0].verified


def test_it_writes_tables_in_words_and_figures(written):
    text = (written / "report.md").read_text()
    assert "| drafter | G | gsm8k |" in text
    assert "### Differences of accepted length, temperature 1" in text
    names = {path.name for path in written.glob("*.png")}
    assert names == {
        *("accepted_length_t1.png", "conditional_acceptance_t1.png", "threshold_sweep_t1.png", "context_t1.png"),
        *("reliability_mine_t1.png", "reliability_ngram_t1.png"),
    }
    assert all((written / name).read_bytes().startswith(b"\x89PNG") for name in names)


def test_a_drafter_of_another_target_is_refused_by_its_key(tmp_path, capsys):
    source = ROOT / "models/demo/dspark"
    config = json.loads((source / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 4097}))
    (tmp_path / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())
    assert main(["eval", "demo", "--limit", "1", "--drafter", f"odd={tmp_path}"]) == 1
    said = capsys.readouterr().err
    assert str(tmp_path) in said
    assert "vocab_size 4097" in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["pyproject.toml"], "pyproject.toml is of no known kind"),
        (["demo", "--drafter", "none"], "nothing to evaluate"),
        (["demo", "--temperature", "3"], "<= 2.0"),
        (["demo", "--thresholds", "1.5"], "< 1.0"),
        (["demo", "--limit", "0"], ">= 1"),
        (["demo", "--policy", "fastest", "--speed", "1"], "unknown policy 'fastest'"),
        (["demo", "--output", "/dev/null/x"], "--output /dev/null/x cannot be a folder"),
    ],
)
def test_what_cannot_be_done_is_told_before_any_work(flags, said, tmp_path, capsys):
    assert main(["eval", "--output", str(tmp_path), *flags]) == 2
    assert said in capsys.readouterr().err


def test_drafters_are_called_by_their_kind_unless_named():
    folder = str(ROOT / "models/demo/dspark")
    assert named_drafters([folder, "ngram", f"old={folder}"]) == {"dspark": folder, "ngram": "ngram", "old": folder}
    with pytest.raises(ConfigError, match="two drafters are called 'ngram'"):
        named_drafters(["ngram", "ngram"])
    with pytest.raises(ConfigError, match=r"\[NAME=\]"):
        named_drafters(["=ngram"])
