"""The vocabulary of stories, by the name of the slot in sentence patterns.

A slot of free words takes any of its words at any time. All others depend on the story, see `story_state`.
"""

from harness.nano.words import ADJECTIVES, BOYS, FOODS, GIRLS, GOODS, GROUPS, ITEMS, PLACES, ROLES, split

# Girls and boys in turns: the first words of a list are the most frequent ones.
NAMES = tuple(name for pair in zip(GIRLS, BOYS, strict=False) for name in pair)
# A pattern writes "a" before a slot, so words that need "an", "on the" or no article are left out.
ANIMALS = tuple(word for word in GROUPS["animals"] if word != "owl")
COLORS = tuple(word for word in GROUPS["colors"] if word != "orange")
JOBS = tuple(word for word in ROLES if word not in ("robot", "king"))
SPOTS = split("tree bridge table wall stone bush bench roof")
HERE = tuple(word for word in PLACES if word != "island")
THINGS = tuple(word for word in GOODS if word not in ("pen", "poster", "shirt", "belt")) + split("bell key rope map")
MEALS = tuple(word for word in FOODS if word not in ("apple", "juice", "salad", "coffee", "tea"))
PETS = split("Rex Bo Coco Dot Kiki Fifi Pip Lulu Toto Momo Zaza Gus")
LOOKS = tuple(word for word in ADJECTIVES if word != "old")
NUMBERS = split("three four five six seven eight nine ten twelve twenty")
SEAS = split("sea river rain moon lake wind")
LANDS = split("road hill sky night way sand")
MOODS = split("long deep cold warm bright high soft wide")

PRONOUNS = {"girl": {"he": "she", "his": "her"}, "boy": {"he": "he", "his": "his"}}
KINDS = dict.fromkeys(GIRLS, "girl") | dict.fromkeys(BOYS, "boy")

FREE: dict[str, tuple[str, ...]] = {
    "time": ("In the morning", "In the evening", "At noon", "Later", "At night", "After lunch", "Before dinner"),
    "pause": ("a while", "an hour", "a long time", "a minute", "ten minutes", "half a day"),
    "manner": split("slowly happily quietly quickly softly proudly carefully bravely loudly gently"),
    "feeling": split("happy tired brave lucky proud sad hungry calm cold warm"),
    "moved": split("walked ran danced climbed marched jumped"),
    "did": split("slept played waited rested jumped danced"),
    "look": LOOKS,
    "view": split("quiet strange small gentle happy bright"),
    "sky": split("sun moon wind rain snow light"),
    "shade": split("bright warm cold soft gray gentle strong"),
    "sound": split("wind rain birds river bells sea"),
    "spot": SPOTS,
    "food": MEALS,
    "hue": COLORS,
    "day": split("day evening morning night afternoon"),
    "season": split("spring summer autumn winter"),
    "speech": (
        "I like this place",
        "It is getting late",
        "We have to hurry",
        "Let us go on",
        "I can hear the wind",
        "We are nearly there",
        "This is a good day",
        "I will never forget this",
        "There is nothing to fear",
        "Look at the sky",
        "I want to go home",
        "We can do it together",
    ),
    "question": (
        "Are you tired",
        "Do you know the way",
        "What was that sound",
        "Shall we sing a song",
        "Who lives here",
        "Can you see the river",
        "Why is it so quiet",
        "Where shall we go now",
    ),
}

# What a slot that depends on the story can hold at all.
BOUND: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("who", "taker", "new"), NAMES),
    **dict.fromkeys(("kind", "newkind"), tuple(PRONOUNS)),
    **dict.fromkeys(("here", "there"), HERE),
    **dict.fromkeys(("thing", "gain"), THINGS),
    **dict.fromkeys(("job", "newjob"), JOBS),
    **dict.fromkeys(("pet", "newpet"), PETS),
    **dict.fromkeys(("animal", "newanimal"), ANIMALS),
    "he": ("he", "she"),
    "his": ("his", "her"),
    "color": COLORS,
    "number": NUMBERS,
    "items": ITEMS,
    "tone": COLORS,
    "mood": MOODS,
    "sea": SEAS,
    "land": LANDS,
}
WORDS = FREE | BOUND
