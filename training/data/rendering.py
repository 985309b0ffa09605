"""A record to the tokens of documents, with a mask over what the target has to write itself.

Where the target's own token ids are there, they are taken as they are. Else the chat template is asked turn by turn:
the text up to a turn, with the answer opened, is a prompt as the service would make it, and what the template adds to
it for the answer is what the target would write. A template that renders earlier turns otherwise once later ones follow
(as those do that leave out old thoughts) gives a document per answer; one whose rendering of an answer does not even
begin with that answer's prompt gives nothing.
"""

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from core.errors import RequestError
from models.chat import ChatTemplate
from models.tokenizer import Tokenizer
from training.data.records import Exchange, Message, Record
from training.learnt_window import learnt_window
from training.shards import Document

# Why a record gives no document.
NO_ANSWER = "no answer to learn from"
TEMPLATE_REFUSES = "the chat template refuses it"
NOT_PREFIX_STABLE = "the chat template renders an answer without its prompt before it"
FOREIGN_IDS = "token ids do not spell the text: another tokenizer wrote them"
TOO_SHORT = "too few tokens to learn"
TOO_LONG = "nothing to learn within the longest length"


class Dropped(Exception):
    """A record gives no document; the message is the reason."""


class Span(Struct, frozen=True):
    """A piece of a document: token ids, of which the first num_written were written by the target."""

    ids: tuple[int, ...]
    num_written: int = 0


class Rendering:
    """Renders records for one target: documents with fewer than min_written tokens to learn are dropped, and the
    others cut to max_len tokens that end with the last to learn.
    """

    def __init__(self, tokenizer: Tokenizer, max_len: int, min_written: int) -> None:
        self._tokenizer = tokenizer
        self._chat = ChatTemplate(tokenizer.chat_template, tokenizer.special_tokens)
        self._max_len, self._min_written = max_len, min_written
        self._marker = self._turn_marker()

    def documents(self, record: Record) -> list[Document]:
        """Return the documents of one record; raises Dropped."""
        if record.exchanges:
            texts = self._from_exchanges(record.exchanges)
        elif record.shape == "text":
            ids = tuple(self._tokenizer.encode(record.text))
            texts = [[Span(ids, len(ids))]]
        elif record.shape == "prompt" or not any(one.role == "assistant" for one in record.messages):
            raise Dropped(NO_ANSWER)
        else:
            texts = self._from_messages(record)
        made = [_document(spans, self._max_len, record.kind) for spans in texts]
        kept = [one for one in made if one.mask.sum() >= self._min_written]
        if not kept:
            whole = max(sum(span.num_written for span in spans) for spans in texts)
            raise Dropped(TOO_SHORT if whole < self._min_written else TOO_LONG)
        return kept

    def opening(self, record: Record) -> str:
        """Return what comes before the first answer: records that open alike belong to one part."""
        if record.messages:
            first = next((i for i, one in enumerate(record.messages) if one.role == "assistant"), None)
            end = first if first is not None else 1
            return "\n".join(f"{one.role}: {one.content}" for one in record.messages[: max(1, end)])
        return record.text.partition(self._marker)[0] if self._marker else record.text

    def _turn_marker(self) -> str:
        """Return what opens an answer in rendered text, "" where the template does not tell."""
        asked = [{"role": "user", "content": "x"}]
        try:
            opened, closed = self._chat.render(asked), self._chat.render(asked, opens_answer=False)
        except RequestError:
            return ""
        return opened.removeprefix(closed) if opened.startswith(closed) else ""

    def _from_exchanges(self, exchanges: Sequence[Exchange]) -> list[list[Span]]:
        """Return a text per exchange, but one for several where each prompt goes on from the answer before it."""
        texts: list[list[Span]] = []
        done: tuple[int, ...] = ()
        for exchange in map(self._with_ids, exchanges):
            prompt, answer = exchange.prompt_ids, exchange.answer_ids
            if texts and prompt[: len(done)] == done:
                texts[-1] += [Span(prompt[len(done) :]), Span(answer, len(answer))]
            else:
                texts.append([Span(prompt), Span(answer, len(answer))])
            done = prompt + answer
        return texts

    def _with_ids(self, exchange: Exchange) -> Exchange:
        if not exchange.answer_ids:
            prompt = self._tokenizer.encode(exchange.prompt, add_special_tokens=False)
            answer = self._tokenizer.encode(exchange.answer, add_special_tokens=False)
            return Exchange(tuple(prompt), tuple(answer))
        if max((*exchange.prompt_ids, *exchange.answer_ids)) >= self._tokenizer.vocab_size:
            raise Dropped(FOREIGN_IDS)
        if exchange.answer:
            # The text may end before the last token does, at a stop text, but it never says anything else.
            spelt = self._tokenizer.decode(list(exchange.answer_ids))
            if not spelt.startswith(exchange.answer.rstrip("\ufffd")):
                raise Dropped(FOREIGN_IDS)
        return exchange

    def _from_messages(self, record: Record) -> list[list[Span]]:
        texts: list[list[Span]] = []
        done = ""
        for index, message in enumerate(record.messages):
            if not _is_answer(record.messages, index):
                continue
            prompt = self._render(record, index, opens_answer=True)
            whole = self._render(record, index + 1, opens_answer=False)
            if not whole.startswith(prompt) or message.content.strip() not in whole[len(prompt) :]:
                raise Dropped(NOT_PREFIX_STABLE)
            answer = self._written(whole[len(prompt) :])
            if texts and prompt.startswith(done):
                texts[-1] += [Span(self._encode(prompt[len(done) :])), answer]
            else:
                texts.append([Span(self._encode(prompt)), answer])
            done = whole
        if not texts:
            raise Dropped(NO_ANSWER)
        return texts

    def _render(self, record: Record, num_messages: int, *, opens_answer: bool) -> str:
        messages = [one.mapping() for one in record.messages[:num_messages]]
        try:
            return self._chat.render(messages, record.tools, opens_answer=opens_answer)
        except RequestError as error:
            raise Dropped(TEMPLATE_REFUSES) from error

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def _written(self, text: str) -> Span:
        """Return an answer up to its end token; blanks that the template puts behind it are never written."""
        ids = self._encode(text)
        num_written = len(ids)
        while num_written > 1 and ids[num_written - 1] not in self._tokenizer.special_ids:
            if self._tokenizer.decode([ids[num_written - 1]], skip_special_tokens=False).strip():
                return Span(ids, len(ids))
            num_written -= 1
        return Span(ids, num_written)


def _is_answer(messages: Sequence[Message], index: int) -> bool:
    """Tell whether a message is an answer in words; calls of tools are read, not learnt."""
    return messages[index].role == "assistant" and "tool_calls" not in messages[index].extra and index > 0


def _document(spans: Sequence[Span], max_len: int, kind: str) -> Document:
    tokens = np.concatenate([np.array(span.ids, dtype=np.int32) for span in spans])
    mask = np.concatenate([np.arange(len(span.ids)) < span.num_written for span in spans])
    window = learnt_window(mask, max_len)
    tokens, mask = tokens[window], mask[window]
    # The first token has nothing before it to be drafted from.
    mask[:1] = False
    return Document(tokens, mask, kind)
