"""Ask a server what its workers' last steps were."""

import aiohttp
import msgspec
from msgspec import Struct

from client.http import authorization, refusal
from core.errors import QueueError
from core.step_record import StepRecord

STEPS_PATH = "/specd/steps"
TIMEOUT_S = 10.0


class WorkerSteps(Struct, frozen=True):
    """The last steps of one worker, oldest first."""

    worker: str
    steps: tuple[StepRecord, ...]


async def fetch_steps(url: str, api_key: str | None = None) -> list[WorkerSteps]:
    """Return the last steps of every worker behind `url`; raises QueueError if it cannot say."""
    try:
        async with (
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S), headers=authorization(api_key)
            ) as session,
            session.get(url + STEPS_PATH) as response,
        ):
            data = await response.read()
            if response.status != 200:
                raise QueueError(f"{url}: {refusal(response.status, data).message}")
            return msgspec.json.decode(data, type=list[WorkerSteps])
    except (aiohttp.ClientError, TimeoutError) as error:
        raise QueueError(f"no answer from {url}: {error or 'timed out'}") from error
    except msgspec.DecodeError as error:
        raise QueueError(f"{url} sent what is no list of steps: {error}") from error
