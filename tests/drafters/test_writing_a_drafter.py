"""The drafter of docs/writing-a-drafter.md, installed as the page says."""

import re
import sys
import tomllib

import pytest

from cli.main import main
from core.config_file import load_settings
from core.types import Numerics, Sampling
from engine.build import build_engine, make_drafter
from engine.engine import Engine
from layers import ROOT
from policies.fixed import Fixed, Off
from toys import SHAPE, make_engine, tiny_target

PAGE = (ROOT / "docs" / "writing-a-drafter.md").read_text(encoding="utf-8")


def block(language, words):
    blocks = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return next(one for one in blocks if words in one)


@pytest.fixture
def settings(tmp_path, monkeypatch):
    (tmp_path / "shallow.py").write_text(block("python", "class Shallow"))
    metadata = tmp_path / "shallow-1.0.dist-info"
    metadata.mkdir()
    project = tomllib.loads(block("toml", "entry-points"))["project"]
    told = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (metadata / "METADATA").write_text(told)
    ((group, entries),) = project["entry-points"].items()
    (metadata / "entry_points.txt").write_text(f"[{group}]\n" + "".join(f"{n} = {v}\n" for n, v in entries.items()))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "shallow", raising=False)
    (tmp_path / "specd.toml").write_text(block("toml", 'kind = "shallow"'))
    proofs = {"engine.proof_dir": str(tmp_path / "proofs"), "engine.profile": False, "engine.kv_cache_tokens": 4096}
    return load_settings(tmp_path / "specd.toml", {}, proofs)[0]


def test_it_is_shorter_than_sixty_lines_with_its_project_file():
    lines = block("python", "class Shallow") + block("toml", "entry-points")
    assert len(lines.splitlines()) < 60


@pytest.mark.parametrize("law", [{"temperature": 0.0}, {"temperature": 1.0, "seed": 3}], ids=["greedy", "seeded"])
def test_some_of_its_drafts_are_kept_and_no_text_changes(settings, law):
    target = tiny_target(numerics=Numerics.BATCH_INVARIANT)
    prompts, sampling = [(3, 1, 4), (1, 5, 9, 2, 6)], Sampling(max_tokens=48, **law)
    plain = make_engine(target, None, Off(), SHAPE).generate(prompts, sampling)
    engine = make_engine(target, make_drafter(settings.drafter, target), Fixed(2), SHAPE)
    assert [one.token_ids for one in engine.generate(prompts, sampling)] == [one.token_ids for one in plain]
    assert 0 < engine.stats.accepted < engine.stats.verified
    assert not engine.stats.fallbacks


def test_until_it_is_proved_its_drafts_count_as_point_masses(settings):
    """Seen in what comes of a draft before it is drawn: of a point mass the target's chance of the token itself."""
    target = tiny_target()

    def soft_accepts(untrusted):
        drafter = make_drafter(settings.drafter, target)
        engine = Engine(target, {"shallow": drafter}, {"fixed": lambda: Fixed(2)}, SHAPE, (), untrusted=untrusted)
        engine.generate([(1, 2, 3)] * 8, Sampling(max_tokens=60))
        return engine.stats.soft_accepts / engine.stats.verified

    assert soft_accepts(["shallow"]) < soft_accepts([])


def test_it_drafts_for_the_demo_by_its_table_alone(settings):
    engine = build_engine(settings)
    assert list(engine.memory.speculators) == ["shallow", "none"]
    assert not engine.memory.speculators["shallow"].trusts_law
    [done] = engine.generate(["What is 2 + 2?"], Sampling(max_tokens=8))
    assert len(done.token_ids) <= 8
    assert engine.stats.drafted > 0
    assert not engine.stats.fallbacks


@pytest.mark.slow
def test_it_can_be_proved_and_is_trusted_then(settings, monkeypatch):
    monkeypatch.setenv("SPECD_ENGINE__PROOF_DIR", settings.engine.proof_dir)
    assert main(["prove", "--drafter", "shallow"]) == 0
    assert build_engine(settings).memory.speculators["shallow"].trusts_law
