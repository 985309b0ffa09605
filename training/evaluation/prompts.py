"""From conversations to prompts in tokens, and which of them fit the model."""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from core.errors import ConfigError, RequestError
from models.chat import ChatTemplate
from models.tokenizer import Tokenizer
from training.evaluation.conversation import Conversation

# As DeepSpec evaluates: a model that can think aloud first is told not to.
TEMPLATE_VALUES: Mapping[str, Any] = {"enable_thinking": False}


class Prompt(Struct, frozen=True):
    """Tokens to be answered, and the most tokens that the answer may have."""

    ids: tuple[int, ...]
    max_tokens: int


class Prompts:
    """Makes the prompts of one model."""

    def __init__(self, tokenizer: Tokenizer, max_model_len: int) -> None:
        self.tokenizer, self.max_model_len = tokenizer, max_model_len
        self._chat = ChatTemplate(tokenizer.chat_template, tokenizer.special_tokens)

    def make(self, conversation: Conversation, answers: Sequence[str], max_tokens: int) -> Prompt | None:
        """Return the prompt of a conversation's next answer; None if it leaves no room for one.

        max_tokens holds where the conversation has no limit of its own. Raises ConfigError, naming the place, for
        messages that the model's chat template refuses.
        """
        ids = self.encode(conversation, answers)
        # One token is the prefill's and makes no round.
        room = self.max_model_len - len(ids)
        return Prompt(tuple(ids), min(conversation.max_tokens or max_tokens, room)) if room > 1 else None

    def encode(self, conversation: Conversation, answers: Sequence[str]) -> list[int]:
        """Return everything before the next answer, however long; raises ConfigError."""
        if conversation.prompt_ids:
            if max(conversation.prompt_ids) >= self.tokenizer.vocab_size:
                raise ConfigError(f"{conversation.place}: prompt_ids are of another tokenizer")
            return list(conversation.prompt_ids)
        if conversation.text is not None:
            return self.tokenizer.encode(conversation.text, add_special_tokens=not conversation.is_rendered)
        try:
            text = self._chat.render(conversation.messages(tuple(answers)), conversation.tools, values=TEMPLATE_VALUES)
        except RequestError as error:
            raise ConfigError(f"{conversation.place}: {error}") from error
        # The template writes the special tokens itself.
        return self.tokenizer.encode(text, add_special_tokens=False)
