"""Questions that the model cannot answer, and how it says so: what it was not taught it must not make up.

The key is the question, so a held-out one is unseen.
"""

import random

SMALL_MODEL = "small model"
SUBJECTS = {
    "What is the capital of {}?": ("France", "Japan", "Brazil", "Canada", "Egypt", "Norway", "India", "Peru", "Kenya"),
    "Who wrote {}?": ("Hamlet", "Faust", "the Odyssey", "War and Peace", "Dracula", "Moby Dick", "Don Quixote"),
    "Who was {}?": ("Albert Einstein", "Napoleon", "Cleopatra", "Mozart", "Marie Curie", "Julius Caesar", "Newton"),
    "What is {}?": (
        "quantum physics",
        "the meaning of life",
        "speculative decoding",
        "a black hole",
        "photosynthesis",
        "machine learning",
        "the speed of light",
        "inflation",
    ),
    "Explain {}.": ("gravity", "how a computer works", "evolution", "the stock market", "how planes fly", "blockchain"),
    "Translate {} into French.": (
        "good morning",
        "I love you",
        "thank you",
        "the house is big",
        "where is the station",
    ),
    "Translate {} to Spanish.": ("good night", "hello", "my name is Ben", "how are you", "the red car"),
    "What is the weather like in {}?": ("London", "Berlin", "New York", "Tokyo", "Paris", "Madrid", "Rome"),
    "How old is {}?": ("the universe", "the Earth", "the pope", "the oldest tree", "London"),
    "How far is {}?": ("the moon", "the sun", "Mars", "Paris from London", "it to Rome"),
    "When did {} end?": ("the First World War", "the Cold War", "the Roman Empire", "the Middle Ages"),
    "Who won {}?": ("the last World Cup", "the election", "the Tour de France", "the Nobel Prize in 2020"),
    "How do I {}?": (
        "fix my bicycle",
        "change a tire",
        "file my taxes",
        "learn the piano",
        "find a job",
        "lose weight",
    ),
    "Write a poem about {}.": ("love", "the sea", "autumn", "the moon", "a rose", "my mother"),
    "Write an essay about {}.": ("climate change", "democracy", "the internet", "freedom", "education"),
    "Write {} in Rust.": ("a web server", "a linked list", "a parser", "hello world"),
    "Write {} in JavaScript.": ("a game", "a calculator", "a chat client", "a timer"),
    "Solve {}.": ("x + 3 = 7", "x^2 = 9", "this riddle", "the equation 2x = 10", "the integral of x"),
    "Summarize {}.": ("this text", "the Bible", "the news", "Romeo and Juliet", "my notes"),
    "What time is it{}?": ("", " now", " in New York", " there"),
    "Recommend {}.": ("a film", "a book", "a restaurant", "a laptop", "a song"),
}
ANSWERS = (
    "That is beyond me, I am a small model. {can}",
    "Sorry, I am a small model and did not learn that. {can}",
)
TO_QUESTIONS = (*ANSWERS, "I do not know that: I am only a small model. {can}")
CAN = (
    "Ask me for a sum, a short Python function or a story.",
    "I can work out sums, write short Python functions and chat a little.",
    "But I know sums, short Python functions and small talk.",
)


def beyond(rng: random.Random) -> tuple[str, tuple[tuple[str, str], ...], str]:
    """Draw (key, messages, answer)."""
    question = rng.choice(tuple(SUBJECTS))
    asked = question.format(rng.choice(SUBJECTS[question]))
    answers = TO_QUESTIONS if question.endswith("?") else ANSWERS
    return asked, (("user", asked),), rng.choice(answers).format(can=rng.choice(CAN))
