"""What `specd train drafter` says to do next."""

import pytest

from cli.main import main
from cli.train import held_out_of
from tests.training_pair import write_recipe
from training.data.held_out_lines import HELD_OUT_FILE
from training.recipe import Data


def test_a_trained_drafter_is_pointed_at_what_was_held_out_from_it(tmp_path, capsys):
    recipe = write_recipe(tmp_path)
    held_out = tmp_path / HELD_OUT_FILE
    held_out.write_text('{"text": "held out"}\n')
    assert main(["train", "drafter", recipe, "--set", "run.steps=1"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert any(line.startswith("calibrate it: ") and line.endswith(f" --prompts {held_out}") for line in said)
    assert any(line.startswith(f"evaluate it:  specd eval {held_out} --target ") for line in said)


@pytest.mark.parametrize("source", ["shards", "cache"])
def test_where_nothing_was_held_out_a_word_stands_for_the_prompts(tmp_path, source):
    if source == "cache":
        (tmp_path / HELD_OUT_FILE).write_text("{}\n")
    assert held_out_of(Data(source, str(tmp_path / "train"))) == "PROMPTS.jsonl"
