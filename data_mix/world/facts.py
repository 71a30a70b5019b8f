"""The fact base of the miniature world: five relations of well-known, checkable facts."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Relation:
    """One kind of fact. `states` are phrasings of the fact, `asks` of the question ({s}, {o})."""

    name: str
    states: tuple[str, ...]
    asks: tuple[str, ...]
    facts: dict[str, str]


RELATIONS: tuple[Relation, ...] = (
    Relation(
        "symbol",
        ("The symbol of {s} is {o}.", "{o} is the symbol of {s}."),
        ("What is the symbol of {s}?", "Which symbol stands for {s}?"),
        {
            "iron": "Fe",
            "gold": "Au",
            "silver": "Ag",
            "copper": "Cu",
            "tin": "Sn",
            "lead": "Pb",
            "sodium": "Na",
            "potassium": "K",
            "carbon": "C",
            "oxygen": "O",
            "hydrogen": "H",
            "helium": "He",
            "neon": "Ne",
            "zinc": "Zn",
            "mercury": "Hg",
            "calcium": "Ca",
        },
    ),
    Relation(
        "class",
        ("The {s} belongs to the class {o}.", "One animal of the class {o} is the {s}."),
        ("Which class does the {s} belong to?", "What kind of animal is the {s}?"),
        {
            "dog": "mammal",
            "whale": "mammal",
            "bat": "mammal",
            "horse": "mammal",
            "hen": "bird",
            "duck": "bird",
            "penguin": "bird",
            "crow": "bird",
            "shark": "fish",
            "tuna": "fish",
            "salmon": "fish",
            "frog": "amphibian",
            "toad": "amphibian",
            "snake": "reptile",
            "lizard": "reptile",
            "turtle": "reptile",
            "bee": "insect",
            "ant": "insect",
            "fly": "insect",
        },
    ),
    Relation(
        "capital",
        ("The capital of {s} is {o}.", "{o} is the capital of {s}."),
        ("What is the capital of {s}?", "Which city is the capital of {s}?"),
        {
            "France": "Paris",
            "Germany": "Berlin",
            "Italy": "Rome",
            "Spain": "Madrid",
            "Japan": "Tokyo",
            "China": "Beijing",
            "Russia": "Moscow",
            "Egypt": "Cairo",
            "Greece": "Athens",
            "Norway": "Oslo",
            "Sweden": "Stockholm",
            "Poland": "Warsaw",
            "Portugal": "Lisbon",
            "Austria": "Vienna",
            "Cuba": "Havana",
            "Peru": "Lima",
        },
    ),
    Relation(
        "tool",
        ("A {o} measures {s}.", "To measure {s} use a {o}."),
        ("What measures {s}?", "Which tool measures {s}?"),
        {
            "time": "clock",
            "length": "ruler",
            "temperature": "thermometer",
            "weight": "scale",
            "pressure": "barometer",
            "direction": "compass",
            "speed": "speedometer",
            "voltage": "voltmeter",
        },
    ),
    Relation(
        "organ",
        ("The {o} {s}.", "What {s} is the {o}."),
        ("Which organ {s}?", "What {s}?"),
        {
            "pumps blood": "heart",
            "thinks": "brain",
            "breathes air": "lung",
            "sees": "eye",
            "hears": "ear",
            "digests food": "stomach",
            "filters blood": "kidney",
            "smells": "nose",
            "tastes": "tongue",
            "makes bile": "liver",
        },
    ),
)

# The countries that every language of languages.py names, in the order of its `capitals`.
CAPITALS_SHARED: tuple[str, ...] = (
    "France", "Germany", "Italy", "Spain", "Japan", "Norway", "Austria", "Greece",
)  # fmt: skip
