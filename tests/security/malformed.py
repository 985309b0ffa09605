"""Requests that are wrong, by the thousand: mutated good ones, what crashed other servers, and what HTTP forbids."""

import json
import random
from collections.abc import Iterator

from hypothesis import strategies as st
from msgspec import Struct

PATHS = ("/v1/completions", "/v1/chat/completions", "/v1/jobs", "/tokenize", "/detokenize")
GOOD = {
    "/v1/completions": {"prompt": "a", "max_tokens": 1},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1},
    "/v1/jobs": {"prompt": "a", "max_tokens": 1},
    "/tokenize": {"prompt": "a"},
    "/detokenize": {"tokens": [97]},
}
FIELDS = (
    *("prompt", "messages", "model", "max_tokens", "temperature", "top_p", "top_k", "min_p", "stop", "seed", "n"),
    *("logit_bias", "logprobs", "top_logprobs", "presence_penalty", "frequency_penalty", "repetition_penalty"),
    *("min_tokens", "stop_token_ids", "ignore_eos", "best_of", "priority", "deadline_ms", "speculation", "cache_salt"),
    *("stream", "stream_options", "user", "tools", "tool_choice", "response_format", "suffix", "echo", "tokens"),
    *("add_special_tokens", "chat_template", "chat_template_kwargs", "guided_regex", "prompt_embeds"),
)
HOSTILE = [
    *(None, True, False, 0, -1, 1.5, -0.0, 1e308, 5e-324, 2**31, 2**63, 2**64, -(2**63) - 1, 10**40),
    *("", "\0", "\n", "\ud7ff", "\u202e", "../../etc/passwd", "/etc/passwd", "%00", "{{ 7*7 }}", "a" * 5000, "(a+)+$"),
    *([], {}, [None], [[]], {"": ""}, [0] * 600, {"AI": -100}, {"-1": 1}, {"99999999999": 1}, ["a", 1], {"type": "x"}),
]
# What has crashed vLLM or SGLang, or has been an advisory, by what it was.
CORPUS: list[tuple[str, bytes]] = [
    ("/v1/completions", b'{"prompt": "a", "top_k": 0.01}'),  # vllm issue 3341
    (
        "/v1/chat/completions",
        b'{"messages": [{"role": "user", "content": "a"}], "logit_bias": {"AI": -100}}',
    ),  # PR 5963
    ("/v1/completions", b'{"prompt": "a", "logit_bias": {"999999999": 1}}'),
    ("/v1/completions", b'{"prompt": "a", "n": 16384}'),
    ("/v1/completions", b'{"prompt": "a", "best_of": 1000000000}'),
    ("/v1/completions", b'{"prompt": [-1]}'),
    ("/v1/completions", b'{"prompt": [4294967296]}'),
    ("/v1/completions", b'{"prompt": []}'),
    ("/v1/completions", b'{"prompt": ""}'),
    ("/v1/completions", b'{"prompt": "a", "temperature": NaN}'),
    ("/v1/completions", b'{"prompt": "a", "temperature": 1e999}'),
    ("/v1/completions", b'{"prompt": "a", "temperature": -1}'),
    ("/v1/completions", b'{"prompt": "\\ud800"}'),
    ("/v1/completions", b'{"prompt": "a", "prompt": 1}'),
    ("/v1/completions", b'{"prompt": "a", "max_tokens": -1}'),
    ("/v1/completions", b'{"prompt": "a", "stop": [""]}'),
    ("/v1/completions", b'{"prompt": "a", "seed": 99999999999999999999999999}'),
    ("/v1/completions", b'{"prompt_embeds": "gAJjdG9yY2g="}'),  # CVE-2025-62164
    ("/v1/completions", b'{"prompt": "a", "guided_regex": "(((((a+)+)+)+)+)$"}'),
    ("/v1/completions", b'{"prompt": "a", "response_format": {"type": "json_schema", "json_schema": {"schema": 1}}}'),
    # CVE-2025-48944: patterns and types of tools.
    (
        "/v1/chat/completions",
        b'{"messages": [{"role": "user", "content": "a"}], "tools": [{"type": "x", "pattern": "*"}]}',
    ),
    # CVE-2025-61620 and 62426: templates of a request's own.
    ("/v1/chat/completions", b'{"messages": [{"role": "user", "content": "a"}], "chat_template": "{{ cycler }}"}'),
    (
        "/v1/chat/completions",
        b'{"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": {"tokenize": true}}',
    ),
    (
        "/v1/chat/completions",  # CVE-2025-6242 and 2026-24779: fetching what a request names.
        b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a\\\\@b"}}]}]}',
    ),
    ("/v1/chat/completions", b'{"messages": []}'),
    ("/v1/chat/completions", b'{"messages": [{"role": "system"}]}'),
    ("/v1/chat/completions", b'{"messages": [{"role": "__class__", "content": "a"}]}'),
    ("/v1/completions", b"[" * 100_000),
    ("/v1/completions", b'{"a":' * 50_000),
    ("/v1/completions", b'"' + b"\\" * 100_000),
    ("/v1/completions", b"1" * 100_000),
    ("/v1/completions", b"\xff\xfe\x00"),
    ("/v1/completions", b""),
    ("/v1/completions", b"null"),
    ("/detokenize", b'{"tokens": [-1]}'),
    ("/detokenize", b'{"tokens": [9223372036854775808]}'),
]
JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


class Malformed(Struct, frozen=True):
    """One request; most of them are wrong, and none asks for more than a few tokens."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str]


def requests(num: int, seed: int, values: list[object]) -> Iterator[Malformed]:
    """Yield so many requests; `values` are what was drawn of JSON_LIKE, mixed with the hostile ones."""
    chance = random.Random(seed)
    pool = [*HOSTILE, *values]
    makers = (_field, _field, _field, _bytes, _shape, _http)
    for index in range(num):
        if index < len(CORPUS):
            path, body = CORPUS[index]
            yield Malformed("POST", path, body, {"Content-Type": "application/json"})
        else:
            yield chance.choice(makers)(chance, pool)


def _field(chance: random.Random, pool: list[object]) -> Malformed:
    path = chance.choice(PATHS)
    body = dict(GOOD[path])
    for _ in range(chance.randint(1, 3)):
        body[chance.choice(FIELDS)] = chance.choice(pool)
    return _post(path, json.dumps(body).encode("utf-8", "surrogatepass"))


def _bytes(chance: random.Random, _: list[object]) -> Malformed:
    path = chance.choice(PATHS)
    body = bytearray(json.dumps(GOOD[path]).encode())
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(body))
        body[at : at + chance.randint(0, 2)] = chance.randbytes(chance.randint(0, 2))
    return _post(path, bytes(body))


def _shape(chance: random.Random, pool: list[object]) -> Malformed:
    return _post(chance.choice(PATHS), json.dumps(chance.choice(pool)).encode("utf-8", "surrogatepass"))


def _http(chance: random.Random, _: list[object]) -> Malformed:
    path = chance.choice(
        [*PATHS, "/", "/v1/jobs/x", f"/v1/jobs/{'0' * 32}/events", "/v1/../etc/passwd", "/%2e%2e/x", "/a?b=%ff"]
    )
    kind = chance.choice(["", "text/plain", "application/json; charset=utf-7", "multipart/form-data", "a" * 200])
    headers = {"Content-Type": kind, "Last-Event-ID": chance.choice(["", "x", "9" * 400]), "x-user-id": "a" * 300}
    return Malformed(chance.choice(["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "POST", "TRACE"]), path, b"{}", headers)


def _post(path: str, body: bytes) -> Malformed:
    return Malformed("POST", path, body, {"Content-Type": "application/json"})
