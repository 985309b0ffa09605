"""What tasks need of asyncio beside what it gives them."""

import asyncio


def is_cancelled() -> bool:
    """Tell whether the running task was asked to end.

    redis-py swallows a cancellation that reaches it while it opens a connection, so a loop around its calls that only
    waited for CancelledError could run for ever.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
