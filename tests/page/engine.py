"""An engine whose steps are of every kind that the page tells apart, and a person's way through the page."""

from dataclasses import dataclass

from core.types import Emission, FinishReason, Request
from tests.page.browser import CTRL, Tab
from tests.service.fakes import BYTES, FakeEngine

# Tokens, drafts verified, accepted and drafted of steps, over and over: plain, bonus, corrected after one and none, and
# bonus after a draft of which two were not verified.
STEPS = ((1, 0, 0, 0), (3, 2, 2, 2), (2, 5, 1, 5), (1, 3, 0, 7), (4, 3, 3, 5))
IS_DONE = "['done', 'differs', 'failed', 'stopped'].includes(document.getElementById('progress').dataset.state)"


@dataclass
class VariedEngine(FakeEngine):
    """Recites `text`, a step of STEPS after the other for each request."""

    text: bytes = BYTES

    def _advance(self, request: Request, done: int) -> Emission:
        place, at = 0, 0
        while at < done:
            at += STEPS[place % len(STEPS)][0]
            place += 1
        num_tokens, verified, accepted, drafted = STEPS[place % len(STEPS)]
        num_tokens = min(num_tokens, request.sampling.max_tokens - done)
        tokens = tuple(self.text[(done + i) % len(self.text)] for i in range(num_tokens))
        accepted = min(accepted, num_tokens)
        is_last = done + num_tokens >= request.sampling.max_tokens
        self.running[request.id] = (request, done + num_tokens)
        if is_last:
            del self.running[request.id]
        reason = FinishReason.LENGTH if is_last else None
        return Emission(request.id, tokens, verified, accepted, accepted, reason, num_drafted=drafted)


async def visit(tab: Tab, url: str, **fields: object) -> None:
    """Open the page, wait until it lives, and fill in fields of the form by their ids."""
    await tab.goto(f"{url}/page")
    await tab.until("['told', 'waiting', 'locked'].includes(document.getElementById('status').dataset.state)")
    for name, value in fields.items():
        await tab.value(f"document.getElementById({name.replace('_', '-')!r}).value = {value!r}")


async def run(tab: Tab) -> str:
    """Ask from the keyboard, wait for the end, and return what the page says of it."""
    await tab.value("document.getElementById('prompt').focus()")
    await tab.press("Enter", CTRL)
    await tab.until(IS_DONE)
    return await tab.value("document.getElementById('progress').textContent")


async def shown(tab: Tab) -> dict[str, int]:
    """Return how many tokens of each kind are drawn, and the sums of the lengths under the steps."""
    return await tab.value("""(() => {
        const of = (sign) => document.querySelectorAll(`#answer .token.${sign}`).length;
        const lengths = [...document.querySelectorAll('#answer .lengths[data-verified]')].map((one) => one.dataset);
        const sum = (name) => lengths.reduce((total, one) => total + Number(one[name]), 0);
        return {
            draft: of('draft'), bonus: of('bonus'), corrected: of('corrected'), plain: of('plain'),
            steps: lengths.length, drafted: sum('drafted'), verified: sum('verified'), accepted: sum('accepted'),
        };
    })()""")
