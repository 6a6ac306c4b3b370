"""Invented subjects and values: people, places and things that no text has ever mentioned.

Reading must not lean on memory, so most of what mini reads about is made up here, a fresh name every time. Nothing
is known here about relations or data: `subject(kind)` and `value(kind)` return a name for a kind.
"""

from __future__ import annotations

from random import Random

FIRST_SHE = (
    "Anna Maria Clara Ruth Helen Ines Nadia Olga Petra Rosa Sofia Tamara Vera Wanda Yasmin Zoe Ada Bella Carmen Dora "
    "Edith Farida Greta Hanna Irma Julia Karin Lena Mira Nora Paula Ronja Selma Tilda Ursula Viola Amina Brigit Celia "
    "Daria Elena Flora Gina Hilda Ida Joan Kaja Lucia Marta Nina Odile Priya Rhea Sigrid Thea Uma Vilma Xenia Yara "
    "Alice Beth Carol Diana Emma Fiona Grace Holly Iris Jane Kate Laura Megan Natalie Olivia Rachel Sarah Tina"
).split()
FIRST_HE = (
    "Adam Boris Carlo David Emil Felix Georg Henrik Igor Jonas Karl Leon Marek Nils Oskar Pavel Quentin Rafael Simon "
    "Tomas Ulrich Viktor Walter Yusuf Zoltan Anton Bruno Cyril Dario Edgar Franz Gustav Hugo Ivan Jakob Kofi Ludwig "
    "Matteo Niko Orlando Piotr Rashid Stefan Thomas Udo Vasil Wilhelm Aldo Bela Casper Dmitri Enzo Farid Goran Hassan "
    "James John Peter Paul Mark Luke Henry Arthur Oliver George Edward Robert Samuel Daniel Michael William Kenji Li"
).split()
_ONSETS = "b br c ch d dr f fl g gr h j k kl l m n p pr r s sh sk st t th tr v w z".split()
_VOWELS = "a e i o u a e i o u ai ea ie oa ou ee".split()
_CODAS = "n r l s m t k nd rn ld st x th ck ff lm rt ng".split()
_SURNAME_ENDS = "son berg mann ov ova ski sen stein field worth ley well ford idis escu ez ini ano ura ander wood".split()
_TOWN_ENDS = "ville ton burg field mouth stad ham wick ford borg hafen ona ia ara ola by bridge stead dale holm".split()
# So that names of towns and people also look like those on a map or in a directory.
_STEMS = (
    "Ash Beck Birk Black Brad Brook Carl Clay Cold Dal Dun East Eber Elm Fair Fals Fern Gold Gran Hal Hart Hav High Holm "
    "Kings Lam Lind Lang Mar Mil Moor Nord Oak Ost Pem Rams Red Rosen Sand Sil Stan Stern Sund Thorn Tor Val Wald West Whit Win"
).split()
_COMPANY_ENDS = (
    "Works,Systems,Motors,Foods,Group,Press,Textiles,Partners,Energy,Labs,Brothers,Shipping,Bakery,Insurance,Bank,"
    "Library,Institute,Society,Theatre,Choir,Council,Airlines,Railways,Publishing,Studios,Electric,Pharma,Farms,Robotics,"
    "Software,Tools,Logistics,Airways,Paper,Steel,Cycles,Instruments,Analytics,Dairy,Brewery,Hotels,Clinic,College,Records"
).split(",")
ADJECTIVES = (
    "silver old green quiet northern golden broken little hidden white red blue long last first wooden stone bright "
    "dark iron summer winter morning eastern western royal new great painted singing narrow lonely open glass"
).split()
NOUNS = (
    "river tower garden lantern bridge mill crown harbour forest hill star clock window road island ship mirror well "
    "fountain wheel gate orchard valley castle market bell field lake meadow lighthouse feather key violin letter"
).split()
_THINGS = (
    "vase,bicycle,lamp,telescope,carpet,kettle,clock,cabinet,map,ring,boat,tractor,camera,umbrella,piano,statue,door,"
    "coat,basket,painting,engine,drill,printer,ladder,chair,table,suitcase,sword,manuscript,flag,bowl,mask,bench,tent"
).split(",")
_BUILDINGS = "museum,library,theatre,station,hotel,bridge,church,school,hospital,market hall,pool,cinema,tower,café,inn,bakery,gallery,tunnel,harbour office,post office".split(
    ","
)
_EVENTS = "festival,fair,concert,race,conference,tournament,exhibition,parade,lecture,contest,marathon,auction,regatta,congress".split(
    ","
)
_PRODUCT_NOUNS = "phone,engine,camera,truck,car,bicycle,console,browser,printer,radio,watch,drone,tablet,tram,pump".split(
    ","
)
VALUES: dict[str, tuple[str, ...]] = {
    "colour": tuple(
        "red blue green yellow white black brown grey orange purple pink silver golden turquoise".split()
    ),
    "day": tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()),
    "animal": tuple(
        "cat dog parrot rabbit goat horse tortoise snake hamster goose donkey ferret owl sheep pony".split()
    ),
    "material": tuple(
        "oak,glass,silver,copper,paper,clay,wool,marble,steel,leather,silk,pine,granite,bronze,cotton,ivory,tin".split(
            ","
        )
    ),
    "dish": tuple(
        "lentil soup,apple pie,fried fish,mushroom stew,pancakes,roast lamb,rice with beans,onion tart,noodles,plum cake,"
        "goulash,potato salad,pea soup,dumplings,grilled trout,barley bread,lemon ice,chestnut cream,crab cakes".split(
            ","
        )
    ),
    "hour_names": tuple("one two three four five six seven eight nine ten eleven twelve".split()),
}
_NUMBER_WORDS = (
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    "nineteen twenty thirty forty fifty sixty seventy eighty ninety"
).split()
FILLERS = (
    "Visitors are welcome all year round.",
    "More will be said about this next month.",
    "The report was read aloud and nobody objected.",
    "It rained for most of the week.",
    "A photograph hangs in the hall.",
    "Many people have asked about this.",
    "The newspaper wrote about it at length.",
    "Nothing else is known.",
    "The matter was discussed at the spring meeting.",
    "Those who were there remember it well.",
    "There is a small shop next door.",
    "The committee thanks everyone who helped.",
    "Please keep this notice for later use.",
    "An old friend told the story first.",
    "For years this was hardly noticed.",
    "The weather was fine and the streets were full.",
    "Children may enter free of charge.",
    "The old records were lost in a fire.",
    "This was confirmed in a letter.",
    "Further questions should be sent to the office.",
)


_PREPOSITIONS = (
    "after", "before", "near", "under", "with", "without", "for", "beyond", "against", "during", "behind", "beside",
    "because of", "in spite of", "as told by", "according to", "over", "through", "thanks to", "next to", "far from",
)  # fmt: skip
_MATTERS = (
    "winter,journey,report,friend,neighbour,plan,debate,rule,visit,custom,story,"
    "record book,season,crowd,guide,newspaper,speech,interview,summer,meeting,town clerk,"
    "critic,founder,wedding,war,tool,letter,oven,harvest,novel,garage,birthday,invoice,"
    "orchestra,ticket,kitchen,budget,recipe,printer,holiday,handbook,rumour,snow,engine,"
    "neighbourhood"
).split(",")
_VERBS = (
    "goes with,is tied to,keeps to,leads to,answers to,reaches,favours,is linked with,is all about,turns to,stays with,"
    "is known for,has always meant,depends on,speaks of,chose,was given,took on,holds on to,looks to,counts on,is set on,"
    "settled for,returned to,ended with,began with,is proud of,points to,found,lives for,is bound to,belongs with,"
    "will have,moved on to,has to do with,is said to be close to,was entered under,comes with,swears by"
).split(",")


def aside(rng: Random) -> str:
    """Return a phrase that adds colour and no fact."""
    noun = rng.choice(_MATTERS if rng.random() < 0.7 else NOUNS)
    adjective = f"{rng.choice(ADJECTIVES)} " if rng.random() < 0.5 else ""
    return f"{rng.choice(_PREPOSITIONS)} {rng.choice(('the', 'the', 'a', 'every', 'that', 'this'))} {adjective}{noun}"


def lead(rng: Random) -> str:
    """Return the opening of a sentence of which the fact is the rest."""
    teller = rng.choice(
        (
            f"the {rng.choice(_MATTERS)}",
            f"the {rng.choice(ADJECTIVES)} {rng.choice(_MATTERS)}",
            person(rng)[0],
        )
    )
    opening = rng.choice((
        f"{aside(rng)}, ", f"{teller} says that ", f"{teller} confirmed that ", f"{teller}: ", f"we read {aside(rng)} that ",
        f"{aside(rng)} it was noted that ",
    ))  # fmt: skip
    return opening[:1].upper() + opening[1:]


def link(rng: Random) -> str:
    """Return a verb that joins a subject and its value and says little, or nothing at all."""
    if rng.random() < 0.6:
        return rng.choice(_VERBS)
    return f"{_word(rng, 1)}{rng.choice(('s', 'ed', 'es', 's in', 'ed at', 'ed by', 's with', 'ed for', 's as', 'ed from'))}"


def matter(rng: Random) -> str:
    """Return a noun for something that a subject may have."""
    return rng.choice(_MATTERS) if rng.random() < 0.7 else _word(rng, 2)


def _word(rng: Random, syllables: int) -> str:
    parts = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(syllables)]
    word = "".join(parts) + (rng.choice(_CODAS) if rng.random() < 0.5 else "")
    # A shorter one would be found inside other words.
    return word if len(word) > 3 else word + rng.choice(_CODAS) + rng.choice(_VOWELS)


def surname(rng: Random) -> str:
    """Return a family name."""
    if rng.random() < 0.3:
        return (rng.choice(_STEMS) + rng.choice(_SURNAME_ENDS)).capitalize()
    stem = _word(rng, rng.choice((1, 1, 2)))
    return (stem + (rng.choice(_SURNAME_ENDS) if rng.random() < 0.6 else "")).capitalize()


_TITLES_SHE = "Mrs,Ms,Mrs,Miss,Dr,Sister,Aunt,Old Mrs,Professor".split(",")
_TITLES_HE = "Mr,Mr,Mr,Dr,Father,Brother,Uncle,Old,Professor,Captain".split(",")


def person(rng: Random) -> tuple[str, str]:
    """Return a person's name, mostly in full, and the pronoun that goes with it."""
    she = rng.random() < 0.5
    pronoun = "She" if she else "He"
    known = rng.choice(FIRST_SHE if she else FIRST_HE)
    first = known if rng.random() < 0.75 else _word(rng, 2).capitalize()
    draw = rng.random()
    if draw < 0.08:
        return first, pronoun
    if draw < 0.18:
        title = rng.choice(_TITLES_SHE if she else _TITLES_HE)
        called = first if title in ("Sister", "Aunt", "Brother", "Uncle", "Old") else surname(rng)
        return (
            f"{title}{rng.choice(('', '', '.')) if title in ('Mr', 'Mrs', 'Ms', 'Dr') else ''} {called}",
            pronoun,
        )
    return f"{first} {surname(rng)}", pronoun


_ENTITLED = ("Mr", "Mrs", "Ms", "Miss", "Dr", "Sister", "Aunt", "Old", "Professor", "Father", "Brother", "Uncle", "Captain")  # fmt: skip


def short(name: str, kind: str) -> str:
    """Return what a name is called once it is clear who or what is meant: Mira for Mira Solvang, the museum for the Marlow museum."""
    words = name.split()
    if (
        kind in ("person", "she", "he")
        and len(words) == 2
        and words[0].rstrip(".") not in _ENTITLED
    ):
        return words[0]
    if kind in ("building", "event", "thing") and words[0] == "the" and len(words) > 2:
        return f"the {words[-1]}"
    if kind == "company" and len(words) == 2:
        return words[0]
    return name


def place(rng: Random) -> str:
    """Return a town, village or country that is on no map."""
    if rng.random() < 0.25:
        name = (rng.choice(_STEMS) + rng.choice(_TOWN_ENDS)).capitalize()
    else:
        name = _word(rng, rng.choice((1, 2, 2))).capitalize()
        if rng.random() < 0.6:
            name = (name + rng.choice(_TOWN_ENDS)).capitalize()
    if rng.random() < 0.12:
        name = rng.choice(("New ", "Port ", "Upper ", "Lake ", "North ", "Saint ", "East ")) + name
    return name


def _title(rng: Random) -> str:
    shape = rng.randrange(3)
    if shape == 0:
        return f"The {rng.choice(ADJECTIVES).capitalize()} {rng.choice(NOUNS).capitalize()}"
    if shape == 1:
        return f"{rng.choice(NOUNS).capitalize()} of {_word(rng, 2).capitalize()}"
    return f"{_word(rng, 2).capitalize()} and the {rng.choice(NOUNS).capitalize()}"


def _firm(rng: Random) -> str:
    draw = rng.random()
    if draw < 0.55:
        return surname(rng)
    if draw < 0.7:
        return place(rng)
    return rng.choice((*NOUNS, *ADJECTIVES, *_STEMS)).capitalize()


def subject(rng: Random, kind: str) -> tuple[str, str]:
    """Return a new subject of a kind, and the pronoun that stands for it."""
    if kind == "person":
        return person(rng)
    name = {
        "place": place,
        "country": place,
        "company": lambda r: f"{_firm(r)} {r.choice(_COMPANY_ENDS)}",
        "band": lambda r: (
            _title(r)
            if r.random() < 0.5
            else f"{_word(r, 2).capitalize()} {r.choice(NOUNS).capitalize()}s"
        ),
        "work": _title,
        "show": _title,
        "product": lambda r: (
            f"{_word(r, 2).capitalize()} {r.choice((str(r.randrange(2, 990)), r.choice(_PRODUCT_NOUNS)))}"
        ),
        "building": lambda r: (
            f"the {r.choice((place(r), surname(r), r.choice(ADJECTIVES)))} {r.choice(_BUILDINGS)}"
        ),
        "event": lambda r: (
            f"the {r.choice((place(r), surname(r), r.choice(ADJECTIVES)))} {r.choice(_EVENTS)}"
        ),
        "thing": lambda r: (
            f"the {r.choice((place(r), surname(r), r.choice(ADJECTIVES)))} {r.choice(_THINGS)}"
        ),
    }[kind](rng)
    return name, "It"


def newcomer(rng: Random, known: dict[str, list[list[str]]], kind: str) -> tuple[str, str]:
    """Return a new subject and its pronoun; often its name is put together from two of the `known` ones of its kind.

    So that a name which only looks familiar is not taken for a memory.
    """
    named = known.get(kind)
    if named and rng.random() < 0.4:
        one, other = rng.choice(named), rng.choice(named)
        if one != other:
            pronoun = rng.choice(("She", "He")) if kind == "person" else "It"
            return " ".join((*one[:-1], other[-1])), pronoun
    return subject(rng, kind)


# Kinds whose values are words: any word will do, so that reading cannot lean on the words that usually come.
WORDED = frozenset(
    "language job field office position instrument genre religion group colour animal material dish channel label activity goods "
    "open name".split()
)
_MONTHS = (
    "January February March April May June July August September October November December".split()
)


def open_value(rng: Random, kind: str, words: list[str]) -> str:
    """Return a value of a worded kind that nobody has heard of, made of common or invented words."""
    if kind in ("language", "religion"):
        return _word(rng, 2).capitalize() + rng.choice(("ish", "ian", "ese", "ism", "", "i"))
    if kind in ("channel", "label"):
        return rng.choice(
            (_word(rng, 2).capitalize(), "".join(rng.choice("ABCDFGKLMNPRSTVXZ") for _ in range(3)))
        )
    shape = rng.random()
    if not words or shape < 0.25:
        made = _word(rng, 2)
    elif shape < 0.65:
        made = rng.choice(words)
    elif shape < 0.7:
        made = f"{rng.choice(words)}-{rng.choice(words)}"
    else:
        made = f"{rng.choice(words)} {rng.choice(words)}"
    return made.capitalize() if rng.random() < 0.1 else made


def number_word(rng: Random) -> str:
    """Return a number in letters."""
    return rng.choice(_NUMBER_WORDS)


def value(rng: Random, kind: str) -> str:
    """Return a value of an everyday kind."""
    if kind in VALUES:
        return rng.choice(VALUES[kind])
    if kind in ("person",):
        return person(rng)[0]
    if kind in ("place", "country", "continent", "river"):
        return place(rng)
    if kind in ("company", "owner", "label", "channel", "group"):
        return subject(rng, "company")[0]
    number = str(rng.randrange(3, 100) if rng.random() < 0.6 else rng.randrange(100, 9999))
    if kind == "number":
        return number_word(rng) if rng.random() < 0.4 else number
    if kind == "hour":
        named = rng.choice(VALUES["hour_names"])
        return rng.choice(
            (
                f"{named} o'clock",
                f"half past {named}",
                f"{rng.randrange(6, 23)}:{rng.choice(('00', '15', '30', '45'))}",
            )
        )
    if kind == "telephone":
        return rng.choice((number, f"{rng.randrange(100, 999)} {rng.randrange(1000, 9999)}"))
    if kind == "date":
        return f"{rng.randrange(1, 30)} {rng.choice(_MONTHS)}"
    if kind == "year":
        return str(rng.randrange(1150, 2031))
    if kind == "money":
        return f"{number} {rng.choice(('euros', 'dollars', 'crowns', 'pounds', 'francs'))}"
    if kind == "length":
        return f"{number} {rng.choice(('metres', 'feet', 'kilometres', 'miles'))}"
    if kind == "weight":
        return f"{number} {rng.choice(('kilos', 'pounds', 'grams', 'tons'))}"
    if kind == "room":
        return rng.choice(
            (
                f"room {number}",
                f"the {rng.choice(ADJECTIVES)} room",
                f"cabinet {number}",
                f"building {rng.choice('ABCDEFG')}",
            )
        )
    if kind == "code":
        return f"{rng.choice('ABCDEFGHKLMNPRST')}{rng.choice('ABCDEFGHKLMNPRST')}-{rng.randrange(100, 9999)}"
    if kind == "name":
        return rng.choice((surname(rng), place(rng), person(rng)[0]))
    return _word(rng, 2)
