"""Prompts of a wanted length, from prompts and answers that are there: earlier ones of the same task come before."""

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from training.evaluation.conversation import Conversation, Message
from training.evaluation.prompts import Prompts


def lengthen(
    prompts: Prompts, conversations: Sequence[Conversation], answers: Mapping[int, str], length: int
) -> list[Conversation]:
    """Return conversations whose prompts are as long as they get within `length` tokens.

    answers   the target's first answer to each conversation, by its place in the sequence: before a question stand
              others of its task with their answers, or, where a task is plain text, other texts
    Those whose own prompt is longer, or that no other one fits before, are left out.
    """
    made = []
    for index, conversation in enumerate(conversations):
        same = [each for each in range(len(conversations)) if conversations[each].task == conversation.task]
        start = same.index(index)
        before = [other for other in [*same[start + 1 :], *same[:start]] if other in answers]
        found = (
            _longer_chat(prompts, conversation, [(conversations[each], answers[each]) for each in before], length)
            if conversation.text is None
            else _longer_text(prompts, conversation, [conversations[each].text or "" for each in before], length)
        )
        if found is not None:
            made.append(found)
    return made


def _longer_chat(
    prompts: Prompts, conversation: Conversation, earlier: Sequence[tuple[Conversation, str]], length: int
) -> Conversation | None:
    own, found, messages = conversation.turns[0], None, list[Message]()
    for other, answer in earlier:
        messages = [*other.turns[0], {"role": "assistant", "content": answer}, *messages]
        longer = replace(conversation, turns=((*messages, *own),), is_own=False)
        if len(prompts.encode(longer, ())) > length:
            break
        found = longer
    return found


def _longer_text(
    prompts: Prompts, conversation: Conversation, earlier: Sequence[str], length: int
) -> Conversation | None:
    longer = replace(conversation, prompt_ids=())
    for other in earlier:
        if len(prompts.encode(longer, ())) >= length:
            break
        longer = replace(longer, text=other + (longer.text or ""))
    ids = prompts.encode(longer, ())
    if len(ids) < length:
        return None
    # The last tokens, so that the own text is still what is gone on with.
    return replace(longer, text=prompts.tokenizer.decode(ids[-length:], skip_special_tokens=False))
