"""Random JSON schemas whose answers are short: objects, arrays, texts, numbers, choices, nested a few deep."""

import random

WORDS = ("alpha", "beta", "gamma", "delta", "size", "name", "kind", "left", "right", "count")


def random_schema(seed):
    """An object schema of one to four properties, all of them required."""
    rng = random.Random(seed)
    return _object(rng, depth=0)


def _object(rng, depth):
    names = rng.sample(WORDS, rng.randint(1, 4 - depth))
    return {
        "type": "object",
        "properties": {name: _any(rng, depth + 1) for name in names},
        "required": names,
        "additionalProperties": False,
    }


def _any(rng, depth):
    makers = [_text, _number, _choice, _pattern, lambda rng: {"type": ["boolean", "null"]}]
    if depth < 3:
        makers += [lambda rng: _object(rng, depth), lambda rng: _array(rng, depth), lambda rng: _either(rng, depth)]
    return rng.choice(makers)(rng)


def _text(rng):
    return {"type": "string", "minLength": rng.randint(0, 2), "maxLength": rng.randint(2, 6)}


def _number(rng):
    low = rng.randint(-50, 50)
    return {"type": "integer", "minimum": low, "maximum": low + rng.randint(0, 500)}


def _choice(rng):
    return {"enum": rng.sample(WORDS, rng.randint(1, 5))}


def _pattern(rng):
    return {"type": "string", "pattern": rng.choice(["^[a-z]{3}-[0-9]{2}$", "^(yes|no)$", "^[A-F0-9]{4}$"])}


def _array(rng, depth):
    fewest = rng.randint(0, 1)
    return {"type": "array", "items": _any(rng, depth + 1), "minItems": fewest, "maxItems": fewest + rng.randint(0, 2)}


def _either(rng, depth):
    return {"anyOf": [_number(rng), _object(rng, depth)]}
