"""A model is a configured name, never a path; and nothing that is read can run code."""

import ast

from layers import ROOT, UNSAFE_CALLS, UNSAFE_MODULES, module_names, violations
from tests.service.fakes import FakeEngine, running

NAMES = [
    "../fake",
    "/etc/passwd",
    "fake/../../x",
    "fake\0",
    "..\\..\\x",
    "%2e%2e%2ffake",
    "file:///etc/passwd",
    "org/fake",
    "fake ",
    "",
]


async def test_a_model_is_looked_up_and_never_opened(open_settings):
    async with running(open_settings, FakeEngine()) as service:
        for name in NAMES:
            for path in ("/v1/completions", "/tokenize", "/v1/jobs"):
                status, error = await service.post(path, prompt="a", model=name)
                assert (status, error["error"]["code"]) == (404, "model_not_found"), (path, name)


def test_no_module_runs_what_it_reads():
    found = [
        one
        for module, path in module_names().items()
        for one in violations(module, path.read_text(encoding="utf-8"))
        if "run code" in one
    ]
    assert found == []


def test_what_lies_beside_the_modules_runs_nothing_either():
    for path in (ROOT / "docker").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        imports = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert not calls & UNSAFE_CALLS
        assert not imports & UNSAFE_MODULES


def test_secrets_are_never_compared_by_equals():
    tree = ast.parse((ROOT / "service" / "door" / "api_keys.py").read_text(encoding="utf-8"))
    compared = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Compare)]
    assert not [one for one in compared if "sha256" in one or "digest" in one]
    assert "hmac.compare_digest" in {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
