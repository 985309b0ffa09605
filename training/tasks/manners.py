"""How conversations begin and end: greetings, thanks, and being asked what one can do.

The key is the kind and a word of the answer.
"""

import random

CAN = (
    "I can work out sums, write short Python functions, tell little stories and chat.",
    "I work out sums, write short Python functions and chat about everyday things.",
)
ASK = (
    'Try "What is 48 + 37?"',
    'Ask me "What is 12 * 7?"',
    "Ask me for a function that reverses a string, for example.",
    "What would you like?",
    "",
)
# Kind, what is asked, what is answered.
MANNERS = (
    (
        "hello",
        ("Hello", "Hello!", "Hi", "Hi!", "Hey", "Hi there!", "Good morning!", "Good evening!", "Hello, are you there?"),
        ("Hello! {can}", "Hello, nice to meet you! {can}", "Hello! What can I do for you?", "Hello! {ask}"),
    ),
    (
        "well",
        ("How are you?", "Hi, how are you?", "How is it going?", "Hello! How are you today?"),
        ("I am well, thank you! {ask}", "Very well, and you?", "All is well here. What can I do for you?"),
    ),
    (
        "small|model",
        ("Who are you?", "What are you?", "Are you a human?", "What is your name?", "Tell me about yourself."),
        (
            "I am a small model that was trained to show speculative decoding. {can}",
            "I am a very small language model. {can} {ask}",
        ),
    ),
    (
        "sums|functions",
        ("What can you do?", "What do you know?", "Can you help me?", "Help", "What should I ask you?"),
        ("{can} {ask}", "I am small, but I know sums and short functions. {ask}"),
    ),
    (
        "welcome|glad",
        ("Thanks!", "Thank you.", "Thank you very much!", "Great, thanks.", "That is right, thank you."),
        ("You are welcome!", "You are welcome. Anything else?", "I am glad that it helped.", "Glad to help!"),
    ),
    (
        "bye",
        ("Bye!", "Goodbye.", "See you later!", "That is all, bye.", "Good night!"),
        ("Goodbye!", "Bye, see you soon!", "Goodbye, it was nice to chat."),
    ),
)


def manners(rng: random.Random) -> tuple[str, tuple[tuple[str, str], ...], str]:
    """Draw (key, messages, answer)."""
    key, questions, answers = rng.choice(MANNERS)
    answer = rng.choice(answers).format(can=rng.choice(CAN), ask=rng.choice(ASK)).strip()
    return key, (("user", rng.choice(questions)),), answer
