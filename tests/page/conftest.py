"""A page in a real browser, over a service that is real but for its engine."""

import pytest

from tests.page.browser import browsing, chromium
from tests.service.fakes import fake_settings


@pytest.fixture
async def tab():
    """A Chromium with one page, of a laptop's size, in light."""
    executable = chromium()
    if executable is None:
        pytest.skip("needs a Chromium: install chromium-headless-shell, or name one in SPECD_TEST_CHROMIUM")
    async with browsing(executable) as tab:
        await tab.look(1280, 900)
        yield tab


@pytest.fixture
def settings(redis_url, tmp_path):
    return fake_settings(redis_url, tmp_path / "model")
