"""Chat messages to prompt text, by the model's own Jinja template in a sandbox. No torch.

A template comes with the operator's checkpoint, never with a request; it still runs sandboxed and immutable, for a
bounded time and to a bounded length: one that loops must not take a thread with it.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from jinja2 import TemplateError, meta
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range

from core.errors import CheckpointError, RequestError

ROLES = ("system", "user", "assistant")
# What a template that takes tools knows besides.
TOOL = "tool"
# What a template may take, and make.
RENDER_S = 2.0
MAX_CHARS = 1 << 23
# Powers and products beyond these are nothing that a prompt is made of.
MAX_FACTOR = 1 << 20


class ChatTemplate:
    """A compiled chat template; source None stands for a model that has none.

    special_tokens are what the template may name, such as bos_token. takes_tools tells whether it reads tools.
    """

    def __init__(self, source: str | None, special_tokens: Mapping[str, str] | None = None) -> None:
        environment = _BoundedEnvironment(trim_blocks=True, lstrip_blocks=True)
        # HTML's escapes have no place in a prompt.
        environment.filters["tojson"] = _to_json
        environment.globals |= {**(special_tokens or {}), "raise_exception": _raise, "range": _BoundedRange}
        try:
            self._template = None if source is None else environment.from_string(source)
            names = set() if source is None else meta.find_undeclared_variables(environment.parse(source))
        except TemplateError as error:
            raise CheckpointError(f"the model's chat_template is not valid Jinja: {error}") from error

        self.takes_tools = "tools" in names

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        opens_answer: bool = True,
        values: Mapping[str, Any] | None = None,
    ) -> str:
        """Return the prompt, which ends by opening the assistant's turn; raises RequestError for what it does not take.

        Without opens_answer the text ends with the last message. values are what the template may name besides, such
        as enable_thinking.
        """
        if self._template is None:
            raise RequestError("this model has no chat template; use /v1/completions", param="messages")
        for index, message in enumerate(messages):
            if message["role"] not in ROLES and not (self.takes_tools and message["role"] == TOOL):
                raise RequestError(
                    f"messages[{index}].role must be one of {', '.join(ROLES)}, got {message['role']!r}",
                    param="messages",
                )
        told = _ends_at_s.set(time.monotonic() + RENDER_S)
        try:
            told_tools = list(tools) or None
            return _joined(
                self._template.generate(
                    {
                        **(values or {}),
                        "messages": list(messages),
                        "tools": told_tools,
                        "add_generation_prompt": opens_answer,
                    }
                )
            )
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise RequestError(
                f"the model's chat template refuses these messages: {error}", param="messages"
            ) from error
        finally:
            _ends_at_s.reset(told)


class _BoundedEnvironment(ImmutableSandboxedEnvironment):
    """A sandbox that looks at the clock whenever a template calls, reads or computes something."""

    intercepted_binops = frozenset(["*", "**"])

    def call(self, context: Context, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        _check_time()
        return super().call(context, func, *args, **kwargs)

    def getattr(self, obj: Any, attribute: str) -> Any:
        _check_time()
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        _check_time()
        return super().getitem(obj, argument)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if any(isinstance(one, int) and abs(one) > MAX_FACTOR for one in (left, right)):
            raise TemplateError(f"{operator!r} with a number beyond {MAX_FACTOR}")
        if operator == "**" and isinstance(right, int) and abs(right) > 64:
            raise TemplateError("'**' with an exponent beyond 64")
        return super().call_binop(context, operator, left, right)


# When the template that this thread renders has to be done.
_ends_at_s: ContextVar[float] = ContextVar("ends_at_s", default=math.inf)


def _check_time() -> None:
    if time.monotonic() > _ends_at_s.get():
        raise TemplateError(f"it takes longer than {RENDER_S:g} s")


class _BoundedRange(Sequence[int]):
    """A range of bounded length that looks at the clock at every step: an empty loop does nothing else."""

    def __init__(self, *bounds: int) -> None:
        self._range = safe_range(*bounds)

    def __len__(self) -> int:
        return len(self._range)

    def __getitem__(self, index: Any) -> Any:
        return self._range[index]

    def __iter__(self) -> Iterator[int]:
        for index in self._range:
            _check_time()
            yield index


def _joined(parts: Iterator[str]) -> str:
    found, num_chars = [], 0
    for part in parts:
        _check_time()
        num_chars += len(part)
        if num_chars > MAX_CHARS:
            raise TemplateError(f"it writes more than {MAX_CHARS} characters")
        found.append(part)
    return "".join(found)


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> None:
    raise TemplateError(message)
