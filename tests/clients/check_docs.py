"""docs/clients.md says what works: every snippet is run as it stands, but for the server's address."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs" / "clients.md"
SNIPPETS = re.findall(r"^```(python|sh)\n(.*?)^```$", DOCS.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
LIBRARIES = ("litellm", "langchain_openai")


@pytest.mark.parametrize(("language", "code"), SNIPPETS, ids=[code.split("\n", 1)[0][:40] for _, code in SNIPPETS])
def test_a_snippet_runs_and_prints(url, tmp_path, language, code):
    for library in LIBRARIES:
        if library in code:
            pytest.importorskip(library, reason="the environment of frameworks has it")
    assert "http://127.0.0.1:8000" in code
    code = code.replace("http://127.0.0.1:8000", url)
    command = [sys.executable, "-c", code] if language == "python" else ["bash", "-ec", code]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert said.returncode == 0, said.stderr
    assert said.stdout.strip()
