"""`specd complete`: stream a completion from a running server."""

import argparse
from collections.abc import AsyncIterator
from typing import Any

from rich.console import Console

from cli.api_key import api_key
from cli.display import show_answer, show_summary
from client.http import stream_chat, stream_completion
from client.wire import Chunk, Final


def run(arguments: argparse.Namespace) -> int:
    """Print the answer as it comes, and one line of numbers."""
    console = Console()
    events = ask(
        arguments.url,
        arguments.prompt,
        api_key=api_key(arguments),
        chat=arguments.chat,
        model=arguments.model,
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
        priority=arguments.priority,
        deadline_ms=arguments.deadline_ms,
    )
    _, tally = show_answer(console, events)
    show_summary(console, tally)
    return 0


def ask(
    url: str, prompt: str, *, chat: bool = True, temperature: float = 0.0, **fields: Any
) -> AsyncIterator[Chunk | Final]:
    """Send a prompt, as a user's turn or as text to go on with; yields the answer's events."""
    fields["temperature"] = temperature
    url = url.rstrip("/")
    if chat:
        return stream_chat(url, [{"role": "user", "content": prompt}], **fields)
    return stream_completion(url, prompt, **fields)
