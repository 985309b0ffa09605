"""The server that clients are checked against; started by run.py."""

import os

import openai
import pytest


@pytest.fixture(scope="session")
def url():
    return os.environ["SPECD_URL"]


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        yield client
