"""The names and words of the generated problems."""


def split(text: str) -> tuple[str, ...]:
    """Return the words of a text; a list literal of this length would take a line for each."""
    return tuple(text.split())


GIRLS = split(
    "Anna Maya Lena Zoe Nina Rosa Ivy Clara Emma Sara Lucy Mia Ella Alice Nora Eva Lily Ruth Tara June "
    "Hana Iris Vera Dora Olga Paula Wendy Kate Laura Molly"
)
BOYS = split(
    "Tom Ben Omar Leo Max Sam Jack Noah Adam Paul Ravi Hugo Finn Ken Ali Dan Eric Felix Ivan Luke "
    "Mark Nick Oscar Peter Theo Victor Will Carl David George"
)

ITEMS = split(
    "apples pears marbles stickers pencils books coins cards shells stamps buttons balloons beads cookies "
    "muffins eggs lemons plums roses tulips stones toys badges crayons candles cups plates pens ribbons tickets"
)
FOODS = split("apple pear sandwich muffin bagel juice salad cookie coffee tea pie taco bun melon")
GOODS = split("pen notebook book hat scarf mug lamp ball kite puzzle shirt belt brush poster basket cap")
BOXES = split("boxes bags baskets crates jars drawers shelves trays packs bins")

GROUPS: dict[str, tuple[str, ...]] = {
    "animals": split("cat dog horse cow sheep goat lion tiger bear wolf fox rabbit duck owl frog camel mouse"),
    "colors": split("red blue green yellow orange purple pink brown black white gray"),
    "fruits": split("apple pear plum grape lemon mango peach cherry banana melon orange kiwi fig"),
    "tools": split("hammer saw drill wrench chisel pliers shovel rake axe ladder file"),
    "vegetables": split("carrot onion potato tomato pepper cabbage spinach celery radish leek"),
    "vehicles": split("car bus train truck bicycle boat plane tram van ship scooter"),
    "instruments": split("piano violin guitar drum flute trumpet harp cello organ banjo"),
    "countries": split("France Spain Italy Japan Kenya Brazil Canada Peru India Egypt Norway Greece"),
    "sports": split("soccer tennis golf rugby hockey boxing rowing skiing chess cricket"),
    "months": split("January February March April May June July August September October November December"),
    "planets": split("Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune"),
    "metals": split("iron gold silver copper tin lead zinc nickel"),
}

PLACES = split("garden forest kitchen market castle harbor village museum park library desert valley station island")
ADJECTIVES = split("small happy old quiet brave clever tired shiny gentle lucky proud strange tall young")
VERBS = split("sleeps sings dances reads walks waits laughs works rests plays")
ROLES = split("pirate teacher doctor wizard farmer baker pilot robot knight chef detective sailor painter king")
CITIES = split("Oslo Paris Rome Cairo Lima Tokyo Delhi Berlin Madrid Dublin Vienna Athens Boston Toronto Seoul Prague")

# Country: (capital, continent, language).
COUNTRIES: dict[str, tuple[str, str, str]] = {
    "France": ("Paris", "Europe", "French"),
    "Spain": ("Madrid", "Europe", "Spanish"),
    "Italy": ("Rome", "Europe", "Italian"),
    "Germany": ("Berlin", "Europe", "German"),
    "Greece": ("Athens", "Europe", "Greek"),
    "Norway": ("Oslo", "Europe", "Norwegian"),
    "Sweden": ("Stockholm", "Europe", "Swedish"),
    "Finland": ("Helsinki", "Europe", "Finnish"),
    "Poland": ("Warsaw", "Europe", "Polish"),
    "Portugal": ("Lisbon", "Europe", "Portuguese"),
    "Austria": ("Vienna", "Europe", "German"),
    "Hungary": ("Budapest", "Europe", "Hungarian"),
    "Japan": ("Tokyo", "Asia", "Japanese"),
    "China": ("Beijing", "Asia", "Chinese"),
    "India": ("Delhi", "Asia", "Hindi"),
    "Thailand": ("Bangkok", "Asia", "Thai"),
    "Turkey": ("Ankara", "Asia", "Turkish"),
    "Vietnam": ("Hanoi", "Asia", "Vietnamese"),
    "Egypt": ("Cairo", "Africa", "Arabic"),
    "Kenya": ("Nairobi", "Africa", "Swahili"),
    "Morocco": ("Rabat", "Africa", "Arabic"),
    "Ghana": ("Accra", "Africa", "English"),
    "Peru": ("Lima", "America", "Spanish"),
    "Chile": ("Santiago", "America", "Spanish"),
    "Cuba": ("Havana", "America", "Spanish"),
    "Canada": ("Ottawa", "America", "English"),
    "Brazil": ("Brasilia", "America", "Portuguese"),
}
# Element: (symbol, state at room temperature).
ELEMENTS: dict[str, tuple[str, str]] = {
    "hydrogen": ("H", "gas"),
    "helium": ("He", "gas"),
    "oxygen": ("O", "gas"),
    "nitrogen": ("N", "gas"),
    "neon": ("Ne", "gas"),
    "carbon": ("C", "solid"),
    "iron": ("Fe", "solid"),
    "gold": ("Au", "solid"),
    "silver": ("Ag", "solid"),
    "copper": ("Cu", "solid"),
    "tin": ("Sn", "solid"),
    "lead": ("Pb", "solid"),
    "zinc": ("Zn", "solid"),
    "sulfur": ("S", "solid"),
    "sodium": ("Na", "solid"),
    "mercury": ("Hg", "liquid"),
}
# Large unit, small unit, how many small ones make a large one.
UNITS: tuple[tuple[str, str, int], ...] = (
    ("hours", "minutes", 60),
    ("minutes", "seconds", 60),
    ("weeks", "days", 7),
    ("days", "hours", 24),
    ("years", "months", 12),
    ("meters", "centimeters", 100),
    ("kilometers", "meters", 1000),
    ("kilograms", "grams", 1000),
    ("liters", "milliliters", 1000),
)
# Animal: (legs, what it lives on or in).
CREATURES: dict[str, tuple[int, str]] = {
    "dog": (4, "land"),
    "horse": (4, "land"),
    "spider": (8, "land"),
    "ant": (6, "land"),
    "bee": (6, "land"),
    "duck": (2, "land"),
    "hen": (2, "land"),
    "cat": (4, "land"),
    "crab": (10, "sea"),
    "whale": (0, "sea"),
    "shark": (0, "sea"),
    "snake": (0, "land"),
}


def plural(word: str) -> str:
    """Return the regular English plural of a word from these lists."""
    return word + "es" if word.endswith(("ch", "sh", "x", "s")) else word + "s"


def with_article(word: str) -> str:
    """Return the word after `a` or `an`."""
    return f"{'an' if word[0].lower() in 'aeiou' else 'a'} {word}"
