"""`specd submit`: put a job straight into Redis and follow its stream, without HTTP."""

import argparse

from rich.console import Console

from cli.display import show_answer, show_summary
from client.direct import new_job_id, submit
from client.redis_address import redis_address
from client.wire import ChatMessage, IntakeRequest


def run(arguments: argparse.Namespace) -> int:
    """Print the job's id on stderr, its answer as it comes, and one line of numbers."""
    request = IntakeRequest(
        id=new_job_id(),
        prompt=None if arguments.chat else arguments.prompt,
        messages=(ChatMessage("user", arguments.prompt),) if arguments.chat else None,
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
        priority=arguments.priority,
        deadline_ms=arguments.deadline_ms,
    )
    Console(stderr=True).print(f"job {request.id}", style="dim", highlight=False)
    console = Console()
    url = redis_address(arguments.redis_url, arguments.redis_password_file, arguments.redis_ca_file)
    _, tally = show_answer(console, submit(url, request, is_cluster=bool(arguments.redis_cluster)))
    show_summary(console, tally)
    return 0
