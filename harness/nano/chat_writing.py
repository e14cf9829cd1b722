"""Chats about writing and playing a role."""

import random

from harness.nano.chat_turns import Turn, about_text, both, polite
from harness.nano.rules import Rule
from harness.nano.words import ADJECTIVES, BOYS, CITIES, GIRLS, GROUPS, PLACES, ROLES, VERBS, split, with_article

TIMES = split("Today Yesterday Sometimes Tonight Often Once Later Soon")
THINGS = GROUPS["tools"] + GROUPS["instruments"] + GROUPS["fruits"]


def writing(rng: random.Random) -> tuple[Turn, Turn]:
    """Return a chat in which something is written and then changed."""
    first = rng.choice([_sentence_with, _sentence_about, _sentence_start, _two_sentences, _title])(rng)
    return first, about_text(rng, first.answer)


def _scene(rng: random.Random, animal: str) -> str:
    the = f"{rng.choice(['The', 'My', 'Our', 'One'])} {rng.choice(ADJECTIVES)} {animal}"
    return f"{the} {rng.choice(VERBS)} {rng.choice(['in', 'near', 'behind'])} the {rng.choice(PLACES)}"


def _sentence_with(rng: random.Random) -> Turn:
    animal, word = rng.choice(GROUPS["animals"]), rng.choice(ADJECTIVES + PLACES + THINGS)
    sentence = f"{_scene(rng, animal)} with {with_article(word)}."
    if word in ADJECTIVES:
        sentence = f"The {word} {animal} {rng.choice(VERBS)} in the {rng.choice(PLACES)}."
    if word in PLACES:
        sentence = f"The {rng.choice(ADJECTIVES)} {animal} {rng.choice(VERBS)} in the {word}."
    prompt = rng.choice([f"Write a sentence that contains the word {word}.", f"Use the word {word} in a sentence."])
    return Turn(polite(rng, prompt), sentence, both({"kind": "contains", "text": word}, _one_sentence()))


def _sentence_about(rng: random.Random) -> Turn:
    animal, place = rng.choice(GROUPS["animals"]), rng.choice(PLACES)
    where = f"{rng.choice(['in', 'near', 'behind'])} the {place}"
    scene = f"The {rng.choice(ADJECTIVES)} {animal} {rng.choice(VERBS)} {where}."
    prompt = rng.choice(["Write a sentence about {} in {}.", "Describe {} and {} in one sentence."])
    rule = both({"kind": "contains", "text": animal}, {"kind": "contains", "text": place}, _one_sentence())
    return Turn(polite(rng, prompt.format(with_article(animal), with_article(place))), scene, rule)


def _sentence_start(rng: random.Random) -> Turn:
    animal, time = rng.choice(GROUPS["animals"]), rng.choice(TIMES)
    scene = _scene(rng, animal)
    prompt = f"Write a sentence about {with_article(animal)} that starts with the word {time}."
    rule = both({"kind": "starts", "text": time}, {"kind": "contains", "text": animal}, _one_sentence())
    return Turn(polite(rng, prompt), f"{time} {scene[0].lower()}{scene[1:]}.", rule)


def _two_sentences(rng: random.Random) -> Turn:
    animal, place, adjective = rng.choice(GROUPS["animals"]), rng.choice(PLACES), rng.choice(ADJECTIVES)
    prompt = f"Write two sentences about {with_article(adjective)} {animal}."
    answer = f"There is {with_article(adjective)} {animal} in the {place}."
    answer += f" It {rng.choice(VERBS)} {rng.choice(TIMES).lower()}."
    named: list[Rule] = [{"kind": "contains", "text": word} for word in (adjective, animal)]
    return Turn(polite(rng, prompt), answer, both(*named, {"kind": "sentences", "count": 2}))


def _title(rng: random.Random) -> Turn:
    animal, count, word = rng.choice(GROUPS["animals"]), *rng.choice([(3, "three"), (4, "four"), (5, "five")])
    adjective, place = rng.choice(ADJECTIVES).capitalize(), rng.choice(PLACES).capitalize()
    beast = animal.capitalize()
    title = {
        3: f"The {adjective} {beast}",
        4: f"{beast} In The {place}",
        5: f"{adjective} {beast} In The {place}",
    }[count]
    prompt = f"Write a title of exactly {word} words for a story about {with_article(animal)}."
    rule = both({"kind": "words", "count": count}, {"kind": "contains", "text": animal})
    return Turn(polite(rng, prompt), title, rule)


def roleplay(rng: random.Random) -> tuple[Turn, Turn]:
    """Return a chat in which a role is played."""
    name, role, city = rng.choice(GIRLS + BOYS), rng.choice(ROLES), rng.choice(CITIES)
    greeting = rng.choice(["Hello", "Good day", "Greetings", "Welcome"])
    prompt = rng.choice(
        [
            f"You are {with_article(role)} called {name} from {city}. Introduce yourself in one sentence.",
            f"Pretend to be {name}, a {role} from {city}. Say who you are in one sentence.",
            f"Play the role of a {role}. Your name is {name} and you live in {city}. Who are you?",
        ]
    )
    answer = f"{greeting}, I am {name}, {with_article(rng.choice(ADJECTIVES))} {role} from {city}."
    rule = both(*({"kind": "contains", "text": text} for text in (name, role, city)))
    return Turn(prompt, answer, rule), _second_scene(rng, role, name, answer)


def _second_scene(rng: random.Random, role: str, name: str, answer: str) -> Turn:
    thing, place = rng.choice(THINGS), rng.choice(PLACES)
    if rng.random() < 0.25:
        return about_text(rng, answer)
    if rng.random() < 0.3:
        prompt, text = f"What do you do with your {thing}? Answer as the {role}.", f"use my {thing} in the {place}"
        reply = f"{rng.choice(['Every day', 'Sometimes', 'At night', 'In the morning'])} I {text}."
        return Turn(prompt, reply, both({"kind": "contains", "text": "I"}, {"kind": "contains", "text": thing}))
    if rng.random() < 0.5:
        friend = rng.choice([other for other in GIRLS + BOYS if other != name])
        prompt = f"Now greet your friend {friend} and ask a question."
        reply = f"{rng.choice(['Hello', 'Hi', 'Good day'])} {friend}, {rng.choice(['how are you', 'are you well'])}?"
        return Turn(prompt, reply, both({"kind": "contains", "text": friend}, {"kind": "ends", "text": "?"}))
    word = rng.choice(["farewell", "goodbye", "so long", "good night"])
    prompt = rng.choice([f"Now say goodbye and end with the words {word}.", f"Leave now. Your last words are: {word}."])
    return Turn(prompt, f"I must go back to the {place}, {word}", {"kind": "ends", "text": word})


def _one_sentence() -> Rule:
    return {"kind": "sentences", "count": 1}
