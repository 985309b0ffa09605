"""The mask covers what the target has to write, and nothing else, whatever the chat template does."""

import json
import shutil
from pathlib import Path

import pytest

from models.chat import ChatTemplate
from models.tokenizer import Tokenizer
from training.data.records import Exchange, Message, Record
from training.data.rendering import (
    FOREIGN_IDS,
    NO_ANSWER,
    NOT_PREFIX_STABLE,
    TEMPLATE_REFUSES,
    TOO_LONG,
    TOO_SHORT,
    Dropped,
    Rendering,
)

DEMO = Path(__file__).parents[3] / "models" / "demo" / "target"
DIALOGUE = (
    ("system", "Be brief."),
    ("user", "2+3?"),
    ("assistant", "5"),
    ("user", "and 4+4?"),
    ("assistant", "It is 8."),
)
# As templates do that leave out the thoughts of earlier turns.
FORGETS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content.split('</think>')[-1] if not loop.last else m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# The prompt ends in what the rendering of an answer does not have.
UNSTABLE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(DEMO)


@pytest.fixture
def with_template(tmp_path):
    def make(template):
        folder = tmp_path / "target"
        folder.mkdir()
        shutil.copy(DEMO / "tokenizer.json", folder)
        (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
        return Tokenizer(folder)

    return make


def record_of(*messages, shape="conversations", **fields):
    return Record(Path("x.jsonl"), 1, "chat", shape, tuple(Message(*one) for one in messages), **fields)


def written(tokenizer, document):
    """Return the texts of the stretches that are to be learnt."""
    stretches, before = [], False
    for token, learnt in zip(document.tokens.tolist(), document.mask.tolist(), strict=True):
        if learnt and not before:
            stretches.append([])
        if learnt:
            stretches[-1].append(token)
        before = learnt
    return [tokenizer.decode(one, skip_special_tokens=False) for one in stretches]


def whole_of(tokenizer, document):
    return tokenizer.decode(document.tokens.tolist(), skip_special_tokens=False)


def test_every_answer_and_its_end_are_learnt_and_the_tokens_are_those_of_the_whole_text(tokenizer):
    (document,) = Rendering(tokenizer, 4096, 1).documents(record_of(*DIALOGUE))
    assert written(tokenizer, document) == ["5<|im_end|>", "It is 8.<|im_end|>"]
    messages = [{"role": role, "content": content} for role, content in DIALOGUE]
    text = ChatTemplate(tokenizer.chat_template).render(messages, opens_answer=False)
    assert document.tokens.tolist() == tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("num_messages", range(1, 6))
def test_the_mask_begins_where_the_prompt_of_each_prefix_ends(tokenizer, num_messages):
    messages = [{"role": role, "content": content} for role, content in DIALOGUE[:num_messages]]
    if DIALOGUE[num_messages - 1][0] != "assistant":
        prompt = tokenizer.encode(ChatTemplate(tokenizer.chat_template).render(messages), add_special_tokens=False)
        (document,) = Rendering(tokenizer, 4096, 1).documents(record_of(*DIALOGUE))
        if DIALOGUE[num_messages][0] == "assistant":
            assert document.tokens[: len(prompt)].tolist() == prompt
            assert document.mask[len(prompt)]
            assert not document.mask[len(prompt) - 1]


def test_a_template_that_forgets_gives_a_document_for_each_answer_as_it_was_asked_for(with_template):
    tokenizer = with_template(FORGETS)
    record = record_of(
        ("user", "a"), ("assistant", "<think>so</think>b"), ("user", "c"), ("assistant", "<think>d</think>e")
    )
    first, second = Rendering(tokenizer, 4096, 1).documents(record)
    assert written(tokenizer, first) == ["<think>so</think>b<|im_end|>"]
    assert written(tokenizer, second) == ["<think>d</think>e<|im_end|>"]
    assert "so" not in whole_of(tokenizer, second)


def test_a_template_whose_answers_do_not_follow_their_prompts_is_told_of(with_template):
    with pytest.raises(Dropped, match=NOT_PREFIX_STABLE):
        Rendering(with_template(UNSTABLE), 4096, 1).documents(record_of(("user", "a"), ("assistant", "b")))


def test_the_targets_own_tokens_are_taken_as_they_are_and_joined_where_they_go_on(tokenizer):
    # Not how the tokenizer would spell it: what was written counts.
    prompt = tuple(tokenizer.encode("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"))
    answer = (*(tokenizer.encode(one)[0] for one in "hello"), *tokenizer.encode("<|im_end|>"))
    again = (*prompt, *answer, *tokenizer.encode("\n<|im_start|>user\nbye"))
    record = record_of(
        ("user", "hi"), ("assistant", "hello"), exchanges=(Exchange(prompt, answer), Exchange(again, answer))
    )
    (document,) = Rendering(tokenizer, 4096, 1).documents(record)
    assert document.tokens.tolist() == [*again, *answer]
    assert written(tokenizer, document) == ["hello<|im_end|>"] * 2


def test_an_exchange_that_does_not_go_on_from_the_one_before_is_a_document_of_its_own(tokenizer):
    one, two = (Exchange(tuple(tokenizer.encode(text)), tuple(tokenizer.encode("yes"))) for text in ("a b", "c d"))
    documents = Rendering(tokenizer, 4096, 1).documents(record_of(exchanges=(one, two)))
    assert [whole_of(tokenizer, document) for document in documents] == ["a byes", "c dyes"]


def test_a_recorded_answer_without_ids_is_encoded_apart_from_its_prompt(tokenizer):
    record = record_of(shape="prompt", exchanges=(Exchange(prompt="<|im_start|>user\nhi", answer="there it is"),))
    (document,) = Rendering(tokenizer, 4096, 1).documents(record)
    assert written(tokenizer, document) == ["there it is"]


def test_of_a_prompt_that_is_too_long_the_end_stays_before_a_whole_answer(tokenizer):
    record = record_of(shape="prompt", exchanges=(Exchange(tuple(range(10, 110)), (7, 8, 9)),))
    (document,) = Rendering(tokenizer, 40, 3).documents(record)
    assert document.tokens.tolist() == [*range(73, 110), 7, 8, 9]
    assert document.mask.tolist() == [False] * 37 + [True] * 3


def test_what_follows_the_last_answer_makes_way_for_what_comes_before_it(with_template):
    # Line ends of a template that no target writes.
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{{ '\n' * 9 }}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = with_template(template)
    (document,) = Rendering(tokenizer, 12, 2).documents(record_of(("user", "a " * 60), ("assistant", "b c")))
    assert len(document.tokens) == 12
    assert document.mask[-1]
    assert tokenizer.decode(document.tokens[document.mask].tolist()).strip() == "b c"


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (record_of(("user", "a")), NO_ANSWER),
        (record_of(("assistant", "a")), NO_ANSWER),
        (record_of(("user", "x"), ("tool", "y"), ("assistant", "z")), TEMPLATE_REFUSES),
        (record_of(("user", "a"), ("assistant", "")), TOO_SHORT),
        (record_of(("user", "a"), ("assistant", "b c d"), ("user", "a " * 60), ("assistant", "")), TOO_LONG),
        (record_of(shape="prompt", exchanges=(Exchange((1,), (2**20,)),)), FOREIGN_IDS),
        (record_of(shape="prompt", exchanges=(Exchange((1,), (100, 101), "", "p", "else"),)), FOREIGN_IDS),
    ],
)
def test_what_gives_no_document_says_why(tokenizer, record, reason):
    with pytest.raises(Dropped, match=reason):
        Rendering(tokenizer, 40, 3).documents(record)


def test_records_that_open_alike_are_known_by_what_comes_before_the_first_answer(tokenizer):
    rendering = Rendering(tokenizer, 4096, 1)
    chat, longer = record_of(*DIALOGUE[:3]), record_of(*DIALOGUE)
    assert rendering.opening(chat) == rendering.opening(longer) == "system: Be brief.\nuser: 2+3?"
    begin = "<|im_start|>user\nhi<|im_end|>\n"
    texts = [f"{begin}<|im_start|>assistant\n", f"{begin}<|im_start|>assistant\nx<|im_end|>\n<|im_start|>user\ny"]
    assert {rendering.opening(record_of(shape="prompt", text=text)) for text in texts} == {begin}
