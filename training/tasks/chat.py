"""Dialogues, short stories and paraphrases with free word choice: the high-entropy domain.

A grammar of small choices writes the answer: many wordings are right, none is canonical. The key is the pair of
facts that the prompt names (activity and place, adjective and noun), so a held-out dialogue is an unseen pair.
"""

import random
import re
from collections.abc import Callable

from training.tasks.beyond import SMALL_MODEL, beyond
from training.tasks.casual import casual
from training.tasks.manners import manners
from training.tasks.task import Task

HELD_OUT_TEMPLATES = frozenset({"invite"})

ACTIVITIES = (
    "swimming",
    "hiking",
    "reading",
    "painting",
    "cooking",
    "dancing",
    "fishing",
    "gardening",
    "singing",
    "cycling",
    "running",
    "drawing",
    "sailing",
    "skating",
    "camping",
    "climbing",
)
PLACES = (
    "at the lake",
    "in the park",
    "at home",
    "by the sea",
    "in the mountains",
    "in the garden",
    "at school",
    "in the city",
    "on the farm",
    "in the forest",
    "at the beach",
    "in the old town",
    "by the river",
)
TIMES = (
    "on Saturday",
    "on Sunday",
    "in the morning",
    "after lunch",
    "in the evening",
    "this weekend",
    "in spring",
    "before dinner",
    "on a rainy day",
    "next week",
    "in the summer",
    "when it is warm",
)
PEOPLE = (
    "my sister",
    "my brother",
    "a friend",
    "my neighbor",
    "my family",
    "an old friend",
    "my cousin",
    "my dog",
    "two friends",
    "my parents",
)
REASONS = (
    "it makes me happy",
    "the air is fresh",
    "it is quiet",
    "it clears my head",
    "I learn something new",
    "everyone can join",
    "it costs nothing",
    "time passes quickly",
    "there is so much to see",
    "it keeps me healthy",
    "we always laugh a lot",
    "nobody is in a hurry",
    "it reminds me of my childhood",
)
FOODS = ("soup", "bread", "pasta", "salad", "rice", "pancakes", "pizza", "curry", "fish", "potatoes", "a cake", "tea")
TASTES = ("warm", "fresh", "simple", "spicy", "sweet", "light", "hearty", "cheap", "healthy", "quick")
ADJECTIVES = {
    "old": ("aged", "ancient", "elderly"),
    "small": ("little", "tiny", "short"),
    "big": ("large", "huge", "great"),
    "quick": ("fast", "swift", "rapid"),
    "quiet": ("silent", "calm", "still"),
    "happy": ("glad", "cheerful", "merry"),
    "sad": ("unhappy", "gloomy", "tearful"),
    "brave": ("bold", "fearless", "daring"),
    "tired": ("weary", "sleepy", "worn out"),
    "clever": ("smart", "bright", "wise"),
    "strange": ("odd", "curious", "unusual"),
    "kind": ("gentle", "friendly", "warm"),
}
ANIMALS = {
    "dog": ("hound", "puppy"),
    "cat": ("kitten", "tomcat"),
    "horse": ("pony", "mare"),
    "bird": ("sparrow", "songbird"),
    "boy": ("lad", "young man"),
    "girl": ("young lady", "lass"),
    "king": ("ruler", "monarch"),
    "farmer": ("grower", "peasant"),
    "teacher": ("tutor", "instructor"),
    "doctor": ("physician", "medic"),
}
VERBS = {
    "walked": ("strolled", "wandered", "went"),
    "ran": ("raced", "hurried", "rushed"),
    "slept": ("dozed", "rested", "napped"),
    "sat": ("rested", "settled", "waited"),
    "sang": ("hummed", "crooned", "chanted"),
    "looked": ("gazed", "stared", "peered"),
    "hid": ("crouched", "sheltered", "kept out of sight"),
    "worked": ("labored", "toiled", "was busy"),
}
SPOTS = {
    "near the house": ("close to the home", "by the cottage", "next to the building"),
    "in the forest": ("in the woods", "among the trees", "under the trees"),
    "by the river": ("beside the stream", "along the water", "at the bank"),
    "on the hill": ("on the slope", "up on the mound", "on the rise"),
    "at the door": ("by the entrance", "at the gate", "in the doorway"),
    "in the field": ("in the meadow", "on the grass", "out in the pasture"),
}
ENDINGS = (
    "In the end {} went home with a smile.",
    "From that day on, {} was never afraid again.",
    "And {} told nobody about it.",
    "Everyone in the village still talks about {}.",
    "That night {} slept very well.",
    "Since then {} comes back every year.",
)
FINDS = (
    "a golden key",
    "a hidden door",
    "an old letter",
    "a lost child",
    "a broken boat",
    "a talking bird",
    "a map of the stars",
    "a silver coin",
    "a strange light",
    "a sleeping bear",
    "a red balloon",
)


def generate(rng: random.Random) -> Task:
    """Draw one task."""
    template = rng.choice(tuple(TEMPLATES))
    key, messages, answer = TEMPLATES[template](rng)
    *before, (role, question) = ((role, with_article(content)) for role, content in messages)
    messages = (*before, (role, casual(rng, question)))
    return Task("chat", template, key, messages, with_article(answer))


def with_article(text: str) -> str:
    """Write "an" where a vowel follows."""
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)


def is_right(task: Task, text: str) -> bool:
    """Tell whether an answer is finished and speaks of what the prompt asked; word choice is free."""
    stems = [stem for stem in re.split(r"[| ]", task.key) if len(stem) > 2]
    if task.template == "paraphrase":
        stems = [stem for part in task.key.split("|") for stem in (*synonyms(part),)]
    if task.template == "beyond":
        stems = [SMALL_MODEL]
    ended = text.rstrip().endswith((".", "?", "!", '?"'))
    return ended and any(stem in text.lower() for stem in stems)


def synonyms(words: str) -> tuple[str, ...]:
    """Return the words that may stand for others, themselves included."""
    for table in (ADJECTIVES, ANIMALS, VERBS, SPOTS):
        if words in table:
            return (words, *table[words])
    return (words,)


def _activity(rng: random.Random) -> tuple[str, tuple[tuple[str, str], ...], str]:
    doing, place = rng.choice(ACTIVITIES), rng.choice(PLACES)
    asked = rng.choice(
        ("Do you like {} {}?", "What do you think about {} {}?", "Tell me about {} {}.", "Is {} {} a good idea?")
    )
    return f"{doing}|{place}", (("user", asked.format(doing, place)),), praise(rng, doing, place)


def praise(rng: random.Random, doing: str, place: str) -> str:
    """Say something good of an activity at a place."""
    opening = rng.choice(
        (
            "Yes, I really enjoy {} {}.",
            "I love {} {}.",
            "Oh, {} {} is wonderful.",
            "Well, {} {} is one of my favorite things.",
            "I think {} {} is great.",
        )
    )
    middle = rng.choice(
        (
            "I often go there with {who} {when}, because {why}.",
            "Last year I did it with {who}, and {why}.",
            "You should try it {when} with {who}, since {why}.",
            "What I like most is that {why}.",
        )
    )
    ending = rng.choice(
        (
            "Would you like to come along?",
            "Have you ever tried it?",
            "What about you?",
            "Just bring {food} and enjoy it.",
            "Afterwards {food} tastes twice as good.",
            "",
        )
    )
    text = f"{opening.format(doing, place)} {middle} {ending}".strip()
    return text.format(who=rng.choice(PEOPLE), when=rng.choice(TIMES), why=rng.choice(REASONS), food=rng.choice(FOODS))


def _follow_up(rng: random.Random) -> tuple[str, tuple[tuple[str, str], ...], str]:
    doing, place = rng.choice(ACTIVITIES), rng.choice(PLACES)
    first = f"What should I do {rng.choice(TIMES)}?"
    reply = rng.choice(("How about {} {}?", "You could try {} {}.", "I would suggest {} {}.", "Maybe go {} {}."))
    question = rng.choice(("Why that?", "Tell me more.", "What is good about it?", "With whom?"))
    messages = (("user", first), ("assistant", reply.format(doing, place)), ("user", question))
    return f"{doing}|{place}", messages, praise(rng, doing, place)


def _invite(rng: random.Random) -> tuple[str, tuple[tuple[str, str], ...], str]:
    doing, place = rng.choice(ACTIVITIES), rng.choice(PLACES)
    prompt = f"Would you come {doing} {place} with me {rng.choice(TIMES)}?"
    return f"{doing}|{place}", (("user", prompt),), praise(rng, doing, place)


def _meal(rng: random.Random) -> tuple[str, tuple[tuple[str, str], ...], str]:
    taste, time = rng.choice(TASTES), rng.choice(TIMES)
    prompt = rng.choice(
        ("What {} meal can I cook {}?", "I want something {} to eat {}. Any ideas?", "Suggest a {} dish for me {}.")
    ).format(taste, time)
    first, second = rng.sample(FOODS, 2)
    opening = rng.choice(
        (
            "For something {t}, I would make {a} with {b}.",
            "How about {a}? It is {t} and easy.",
            "You could cook {a}, which is {t}, and serve it with {b}.",
            "Try {a} with a little {b}, very {t}.",
        )
    )
    ending = rng.choice(
        (
            "{who} would love it.",
            "It takes only ten minutes.",
            "I made it with {who} {when}.",
            "Eat it slowly {where}.",
            "Do not forget the salt.",
            "There is always some left for {who}.",
        )
    )
    text = f"{opening} {ending}".format(
        t=taste, a=first, b=second, who=rng.choice(PEOPLE), when=rng.choice(TIMES), where=rng.choice(PLACES)
    )
    text = re.sub(r"(^|[.?!] )([a-z])", lambda found: found.group(1) + found.group(2).upper(), text)
    return f"{taste}|{time}", (("user", prompt),), text


def _paraphrase(rng: random.Random) -> tuple[str, tuple[tuple[str, str], ...], str]:
    parts = [rng.choice(tuple(table)) for table in (ADJECTIVES, ANIMALS, VERBS, SPOTS)]
    prompt = rng.choice(("Say this in other words: {}", "Paraphrase: {}", "Rewrite this sentence: {}"))
    sentence = "The {} {} {} {}.".format(*parts)
    new = [rng.choice(synonyms(part)[1:]) for part in parts]
    shape = rng.choice(("The {0} {1} {2} {3}.", "The {0} {1} {2} {3}.", "{4}, the {0} {1} {2}."))
    return "|".join(parts), (("user", prompt.format(sentence)),), shape.format(*new, new[3][0].upper() + new[3][1:])


def _story(rng: random.Random) -> tuple[str, tuple[tuple[str, str], ...], str]:
    adjective, hero = rng.choice(tuple(ADJECTIVES)), rng.choice(tuple(ANIMALS))
    prompt = rng.choice(
        (
            "Tell me a short story about a {} {}.",
            "Write a little story about a {} {}.",
            "I would like to hear about a {} {}.",
        )
    ).format(adjective, hero)
    opening = rng.choice(
        ("Once upon a time there was a {} {}.", "Long ago there lived a {} {}.", "In a far country there was a {} {}.")
    ).format(adjective, hero)
    action = rng.choice(
        (
            "One day the {h} {v} {s} and found {f}.",
            "Every day the {h} {v} {s}, until {f} appeared.",
            "While the {h} {v} {s}, {f} came into view.",
        )
    )
    reaction = rng.choice(
        (
            "It was more than the {h} had hoped for.",
            "At first the {h} did not know what to do.",
            "Quickly the {h} called for help.",
            "What a surprise that was!",
        )
    )
    text = f"{opening} {action} {reaction} {rng.choice(ENDINGS).format('the ' + hero)}".format(
        h=hero, v=rng.choice(tuple(VERBS)), s=rng.choice(tuple(SPOTS)), f=rng.choice(FINDS)
    )
    return f"{adjective}|{hero}", (("user", prompt),), text


TEMPLATES: dict[str, Callable[[random.Random], tuple[str, tuple[tuple[str, str], ...], str]]] = {
    maker.__name__.removeprefix("_"): maker
    for maker in (_activity, _follow_up, _invite, _meal, _paraphrase, _story, manners, beyond)
}
