"""The policy of docs/writing-a-policy.md, installed as the page says."""

import re
import tomllib

import pytest

from core.config_file import load_settings
from core.types import Sampling
from engine.build import make_policy
from layers import ROOT
from policies.fixed import Off
from toys import SHAPE, make_engine, tiny_dspark, tiny_target

PAGE = (ROOT / "docs" / "writing-a-policy.md").read_text(encoding="utf-8")


def block(language, words):
    blocks = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return next(one for one in blocks if words in one)


@pytest.fixture
def policy(tmp_path, monkeypatch):
    project = block("toml", "entry-points")
    (tmp_path / "polite.py").write_text(block("python", "class Polite"))
    metadata = tmp_path / "polite-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: polite\nVersion: 1.0\n")
    ((group, entries),) = tomllib.loads(project)["project"]["entry-points"].items()
    (metadata / "entry_points.txt").write_text(f"[{group}]\n" + "".join(f"{n} = {v}\n" for n, v in entries.items()))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "specd.toml").write_text(block("toml", 'kind = "polite"'))
    return make_policy(load_settings(tmp_path / "specd.toml", {}, {})[0].policy)


def test_it_is_shorter_than_forty_lines_with_its_project_file():
    lines = block("python", "class Polite") + block("toml", "entry-points")
    assert len(lines.splitlines()) < 40


def test_it_plans_the_steps_of_an_engine_and_changes_no_text(policy):
    assert policy.length == 3
    target = tiny_target()
    prompt, greedy = (3, 1, 4, 1, 5), Sampling(temperature=0.0, max_tokens=24)
    (plain,) = make_engine(target, None, Off(), SHAPE, ()).generate([prompt], greedy)
    engine = make_engine(target, tiny_dspark(target), policy, SHAPE, ())
    (answer,) = engine.generate([prompt], greedy)
    assert answer.token_ids == plain.token_ids
    assert not engine.stats.fallbacks["policy"]
    assert sum(group.counts.drafted for group in engine.groups.by_key.values()) > 0
