"""The dialogue format of the demo pair, as text: ChatML, and the same as the Jinja template that is shipped."""

from collections.abc import Sequence

from tokenizers import Tokenizer

from core.errors import CheckpointError

END_OF_TEXT, START, END, MASK = SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|mask|>")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """Return the id of a special token; raises CheckpointError if the tokenizer lacks it."""
    found: int | None = tokenizer.token_to_id(token)
    if found is None:
        raise CheckpointError(f"the tokenizer has no {token}; train it with training/tokenizer.py")
    return found


def render_prompt(messages: Sequence[tuple[str, str]]) -> str:
    """Render (role, content) messages and open the assistant's turn."""
    turns = "".join(f"{START}{role}\n{content}{END}\n" for role, content in messages)
    return f"{turns}{START}assistant\n"


def render_answer(answer: str) -> str:
    """Render what the assistant has to write, its end included."""
    return f"{answer}{END}\n"
