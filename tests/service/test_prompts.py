"""/tokenize and /detokenize answer in vLLM's shapes, with the ids that generation would see."""

import pytest

from tests.service.fakes import EOS, FakeEngine, running

TEXT = "Grüße 🎉"


async def test_text_becomes_ids_and_ids_become_text(settings):
    async with running(settings, FakeEngine()) as service:
        status, told = await service.post("/tokenize", model="fake", prompt=TEXT)
        _, back = await service.post("/detokenize", model="fake", tokens=[*told["tokens"], EOS])
    ids = list(TEXT.encode())
    assert (status, told) == (200, {"count": len(ids), "max_model_len": 512, "tokens": ids})
    assert back == {"prompt": f"{TEXT}<eos>"}


async def test_messages_are_tokenised_as_a_chat_would_see_them(settings):
    engine, messages = FakeEngine(), [{"role": "user", "content": "hi"}]
    async with running(settings, engine) as service:
        _, told = await service.post("/tokenize", messages=messages, add_special_tokens=False)
        await service.post("/v1/chat/completions", messages=messages)
    assert tuple(told["tokens"]) == engine.seen[0].prompt_ids


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "prompt"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/tokenize", {"prompt": "a", "model": "other"}, "model"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [EOS + 1]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": "abc"}, "tokens"),
    ],
)
async def test_what_is_wrong_is_named(settings, path, body, param):
    async with running(settings, FakeEngine()) as service:
        status, told = await service.post(path, **body)
    assert (400 <= status < 500, told["error"]["param"]) == (True, param)
