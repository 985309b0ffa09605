"""Chat messages to prompt text, by the model's own Jinja template in a sandbox. No torch.

A template comes with the operator's checkpoint, never with a request; it still runs sandboxed and immutable.
"""

from collections.abc import Mapping, Sequence

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from core.errors import CheckpointError, RequestError

ROLES = ("system", "user", "assistant")


class ChatTemplate:
    """A compiled chat template; source None stands for a model that has none.

    special_tokens are what the template may name, such as bos_token.
    """

    def __init__(self, source: str | None, special_tokens: Mapping[str, str] | None = None) -> None:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals |= {**(special_tokens or {}), "raise_exception": _raise}
        try:
            self._template = None if source is None else environment.from_string(source)
        except TemplateError as error:
            raise CheckpointError(f"the model's chat_template is not valid Jinja: {error}") from error

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return the prompt that opens the assistant's turn; raises RequestError for what it does not take."""
        if self._template is None:
            raise RequestError("this model has no chat template; use /v1/completions", param="messages")
        for index, message in enumerate(messages):
            if message["role"] not in ROLES:
                raise RequestError(
                    f"messages[{index}].role must be one of {', '.join(ROLES)}, got {message['role']!r}",
                    param="messages",
                )
        try:
            return self._template.render(messages=list(messages), add_generation_prompt=True)
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise RequestError(
                f"the model's chat template refuses these messages: {error}", param="messages"
            ) from error


def _raise(message: str) -> None:
    raise TemplateError(message)
