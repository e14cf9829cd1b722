"""The sentence patterns of stories: openings, middles and endings."""

from harness.nano.story_patterns import Pattern

# The commonest come first: the n-th has a weight of 1 / (n + 3), so that argmax goes round in circles.
MOVES = tuple(
    Pattern(scene, text)
    for scene, text in (
        ("road", "Then they {moved} and {moved} through the {here} until they were {feeling}."),
        ("talk", '"{speech}," said {who}, and {who2} nodded {manner}.'),
        ("pet", "{who}'s {animal} {did} {manner} under a {spot} in the {here}."),
        ("heart", "{who} felt {feeling}, but {who2} felt {feeling2} and wanted to rest."),
        ("road", "{time} they left the {here} and went {manner} to the {there}."),
        ("sky", "The {sky} was {shade}, and the {here} looked {view} that {day}."),
        ("talk", '{who} asked {who2} {manner}, "{question}?"'),
        ("find", "{time} {who} found a {hue} {gain} under a {spot} in the {here}."),
        ("thing", "{who} held the {color} {thing} {manner} and thought about the {sky}."),
        ("song", '{who} sang {manner}, "Oh, {tone} is the {sea} and {mood} is the {land}."'),
        ("heart", "{who} laughed and laughed, because {who2} told a {look} story about a {spot}."),
        ("pet", "{pet} the {animal} {did} and {did}, and then {did2} beside {who}."),
        ("goal", "{who} still wanted to find {number} {items} and looked under every {spot}."),
        ("road", "They {moved} past a {look} {spot} and came back to the {here}."),
        ("rest", "{time} {who} and {who2} sat under a {spot} and ate a {food}."),
        ("find", "{who} gave the {color} {thing} to {taker} and felt {feeling}."),
        ("pet", "The {job}'s {animal} {did} {manner} all {day} and was never {feeling}."),
        ("sky", "A {shade} wind blew {manner} through the {here} all {day}."),
        ("thing", '"Where is the {color} {thing}?" asked {who2}, and {who} showed it {manner}.'),
        ("meet", "{time} a {look} {newkind} called {new} came to the {here}."),
        ("talk", '"I am {feeling}," said {who}, "but I am not {feeling2}."'),
        ("heart", "{who} smiled at {who2} and said nothing for {pause}."),
        ("goal", '"We need {number} {items}," said {who}, and {he} looked very {feeling}.'),
        ("road", "They did not know the way, so they {moved} {manner} to the {there}."),
        ("rest", "{who} was so tired that {he} slept under a {spot} for {pause}."),
        ("pet", "{who} called {pet}, and the {animal} came back {manner} from a {spot}."),
        ("thing", "{who} put the {color} {thing} in a bag and {moved} on {manner}."),
        ("sky", "It rained and rained in the {here}, but nobody was {feeling}."),
        ("meet", "On the way they met a {newjob} called {new}, who looked {feeling}."),
        ("thing", "{who2} asked the {job} about the {color} {thing} and waited for {pause}."),
        ("song", "They sang and sang about the {tone} {sea} and the {mood} {land}."),
        ("rest", "{who} made a fire, and they ate a {food} and a {food2}."),
        ("pet", "{who}'s {animal} and {who2}'s {animal2} {did} together for {pause}."),
        ("talk", '{who} said to {who2}, "Your {animal2} is very {look} and never {feeling}."'),
        ("heart", "{who} thought of home and was a little {feeling} that {day}."),
        ("find", "The {color} {thing} fell on the ground, and {who} picked it up {manner}."),
        ("road", "{who} {moved} ahead, but {who2} waited {manner} in the {here} for {pause}."),
        ("goal", "{who} counted to {number}, but there were no {items} in the {here}."),
        ("sky", "{time} the {sky} came back and made everything {view} and {shade}."),
        ("talk", '"Be careful with the {thing}," said {who2} to {who} {manner}.'),
        ("meet", "{time} a {newkind} called {new} came by with a {newanimal} called {newpet}."),
        ("pet", "{pet} wanted to play, so {who} threw a stick for {pause}."),
        ("heart", "Everyone was {feeling} that {day}, but {who} was {feeling2} and {look}."),
        ("talk", '{who2} said {manner}, "I want to be a {job} like {who}."'),
        ("road", "They took a {look} path behind a {spot} and came to the {there}."),
        ("rest", "{who} closed {his} eyes and listened to the {sound} for {pause}."),
        ("pet", "{who2} found {pet} under a {spot} and took the {animal} back to {who}."),
        ("talk", '"What a {view} {here}," said {who}, and {who2} laughed {manner}.'),
        ("thing", "{who} showed {who2} the {thing}, and they said that it was {color}."),
        ("sky", "The {sound} and the {sound2} were the only sound in the {here}."),
        ("goal", '"How many {items} do you need?" asked {who2}, and {who} said, "I need {number}."'),
        ("song", "{who} hummed the song of the {mood} {land}, and {who2} danced {manner}."),
        ("pet", "The {animal} was hungry, so {who} gave {pet} a {food} and a {food2}."),
        ("rest", "They lay in the grass and looked at the {sky} for {pause}."),
        ("talk", '"A {job} is never {feeling}," said {who}, and {he} {moved} on.'),
        ("find", '"Please take my {thing}," said {who}, and {taker} took it {manner}.'),
        ("heart", "{who} hugged {his} {animal} and whispered to {who2} for {pause}."),
        ("road", "The way from the {here} to the {there} was long, but they {moved} on."),
        ("meet", "{who} shook hands with {who2} and said that {he} felt {feeling}."),
        ("thing", "The {job} hid the {color} {thing} under a {spot}, and {who2} looked for it."),
    )
)

CLOSINGS = tuple(
    Pattern("end", text)
    for text in (
        "That was the end of a long {day} in the {here}.",
        "In the end they all went home, and {who} was {feeling}.",
        "And that is the story of {who} and {who2}.",
        "Then everyone went home, and nobody ever forgot that {day}.",
        "They all went to bed, and that was the end.",
    )
)

# What may come before a sentence that is said again.
AGAIN = ("Once more, ", "And again, ")

# The hero, the friend and the place; who they are; what they have, want and sing.
OPENINGS = tuple(
    tuple(Pattern("start", text) for text in group)
    for group in (
        (
            "One {season} {day} a {look} {kind} called {who} was in the {here} with {his} {look2} friend {who2}.",
            "Once a {look} {kind} called {who} lived in the {here}, and {his} best friend was {who2}.",
            "It was a {look} {season} {day} in the {here}, and {who} was waiting for {his} friend {who2}.",
            "In the {here} lived a {look} {kind} called {who}, who liked {his} {look2} friend {who2} very much.",
            "This is the story of {who}, a {look} {kind}, and {who2}, who met in the {here} in {season}.",
        ),
        (
            "{who} had a {animal} called {pet}, and {who2} had a {animal2} called {pet2}.",
            "{who}'s {animal} was called {pet}, and {who2}'s {animal2} was called {pet2}.",
            "{who2} was a {job2} and had a {animal2} called {pet2}.",
            "{who} was a {job} with a {animal} called {pet}, and {who2} was a {job2}.",
            "{who} and {pet} the {animal} had come with {who2}, who was a {job2}.",
        ),
        (
            "{who} had a {color} {thing} and wanted to find {number} {items}.",
            "{who2} had a {color2} {thing2}, and {who} wanted to bring home {number} {items}.",
            '{who} had a {color} {thing} and often sang, "Oh, {tone} is the {sea} and {mood} is the {land}."',
            "{who} had promised to find {number} {items}, and {who2} carried a {color2} {thing2}.",
            '{who2} had a {color2} {thing2}, and they sang, "Oh, {tone} is the {sea} and {mood} is the {land}."',
        ),
    )
)

# The scene that is likely next; any other can follow too. One round takes about as long as the text of a test.
FOLLOWS = {
    "start": "road",
    "road": "sky",
    "sky": "talk",
    "talk": "find",
    "find": "thing",
    "thing": "pet",
    "pet": "meet",
    "meet": "heart",
    "heart": "song",
    "song": "goal",
    "goal": "rest",
    "rest": "road",
}
