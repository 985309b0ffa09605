"""The redactor that specd brings: whatever may be an address, a number or a link of somebody's.

It errs on the side of taking out: what is left is for a drafter to learn style from, not facts. It knows no names.
"""

import re

# Each is tried once per run of what it may be made of, so that no prompt makes it slow: a match holds all threads up.
EMAIL = re.compile(r"(?<![\w.+%-])[\w.+%-]++@[\w-]++(?:\.[\w-]++)+")
LINK = re.compile(r"\b(?:https?|ftp)://[^\s<>\"']++", re.IGNORECASE)
# Seven digits or more with what people put between them: telephone, card and account numbers.
NUMBER = re.compile(r"\d(?:[ ().-]{0,2}\d){6,}+")


def redact_contacts(text: str) -> str:
    """Return `text` with links, e-mail addresses and numbers of seven digits or more replaced by their kind."""
    for pattern, kind in ((LINK, "[link]"), (EMAIL, "[email]"), (NUMBER, "[number]")):
        text = pattern.sub(kind, text)
    return text
