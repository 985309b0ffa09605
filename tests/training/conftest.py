"""The shipped tokenizer, for tests that need real tokens."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer


@pytest.fixture(scope="session")
def demo_tokenizer():
    return Tokenizer.from_file(str(Path(__file__).parents[2] / "models" / "demo" / "target" / "tokenizer.json"))
