"""The library text: whole packages are held out, and what is skipped is skipped."""

from pathlib import Path

import pytest

from training.corpus import is_held_out, package, read_corpus


@pytest.fixture
def library(tmp_path):
    for name in (
        "json/decoder.py",
        "json/encoder.py",
        "test/test_json.py",
        "site-packages/x.py",
        "socket.py",
        "empty.py",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("" if name == "empty.py" else f"# {name}\n")
    return tmp_path


def test_files_are_split_by_whole_packages(library):
    corpus = read_corpus(library)
    train = {package(Path(name)) for name in corpus.train}
    held_out = {package(Path(name)) for name in corpus.held_out}
    assert train == {"json"}
    assert held_out == {"socket"}


def test_size_and_hash_change_with_the_text(library):
    before = read_corpus(library)
    (library / "json" / "decoder.py").write_text("# another\n")
    after = read_corpus(library)
    assert before.num_bytes != after.num_bytes
    assert before.sha256 != after.sha256


def test_a_module_and_its_implementation_are_one_package():
    assert package(Path("_pydecimal.py")) == package(Path("decimal.py"))
    assert is_held_out(Path("socket.py")) == is_held_out(Path("_socket.py"))


def test_the_running_library_has_both_parts():
    corpus = read_corpus()
    assert len(corpus.train) > 10 * len(corpus.held_out) > 0
    assert not any(name.startswith(("test/", "site-packages/")) for name in corpus.train)
