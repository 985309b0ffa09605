"""How prompts are typed: mostly as they should be, now and then in small letters or without the full stop."""

import random

SHARE = 0.15


def casual(rng: random.Random, text: str) -> str:
    """Return a prompt as somebody in a hurry types it, one time in seven each way."""
    if rng.random() < SHARE:
        text = text[0].lower() + text[1:]
    if rng.random() < SHARE:
        text = text.rstrip(".?")
    return text
