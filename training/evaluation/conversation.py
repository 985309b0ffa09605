"""What an evaluation asks: a conversation with one or more places for an answer, and how to tell a right answer.

Knows nothing of files, tokens or models.
"""

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

Message = Mapping[str, Any]
Judge = Callable[[str], bool]


class Conversation(Struct, frozen=True):
    """Something to be answered, as many times as it has turns.

    task        whose column it counts in
    place       where it comes from, for messages to people: "gsm8k.jsonl line 12"
    turns       per answer the messages that come before it and after the answer before; empty for plain text
    is_own      between turns stands the target's own answer; else the turns bring the recorded one along
    text        for plain text: what is to be gone on with
    is_rendered the text is a whole prompt, special tokens written out, as the service records it
    prompt_ids  the tokens of that prompt, where they are known
    tools       what the chat template is told of tools
    max_tokens  most tokens of an answer; None takes the run's
    is_right    judges the text of the last answer; None where nothing is known of right answers
    kind        what right answers are also counted by: "new wording"
    """

    task: str
    place: str
    turns: tuple[tuple[Message, ...], ...] = ()
    is_own: bool = True
    text: str | None = None
    tools: tuple[Message, ...] = ()
    max_tokens: int | None = None
    is_right: Judge | None = None
    kind: str = ""
    is_rendered: bool = False
    prompt_ids: tuple[int, ...] = ()

    @property
    def num_turns(self) -> int:
        """How many answers it asks for."""
        return len(self.turns) or 1

    def messages(self, answers: tuple[str, ...]) -> list[Message]:
        """Return everything before the answer number len(answers), given those before it."""
        messages = list(self.turns[0])
        for answer, turn in zip(answers, self.turns[1:], strict=False):
            if self.is_own:
                messages.append({"role": "assistant", "content": answer})
            messages += turn
        return messages
