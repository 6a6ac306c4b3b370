"""Sentences and questions for facts, in the words of a notice or of a person who asks.

Training of the embedded model must not use these sentences; a test holds it. The weights shipped
now are older than that test and knew some of them (mini/README.md). Plain questions, such as «Where
was {x} born?», are in training too: there are few ways to ask. In a template, {x} is the subject,
{y} the value and {a_y} the value with its article. Relations are Wikidata's, as in ParaRel.
"""

import random
from dataclasses import dataclass

_VOWELS = tuple("aeiou")


@dataclass(frozen=True)
class Relation:
    """How facts of one relation are told and asked for."""

    value: str  # the kind of value: "city", "language", …
    passages: tuple[str, str, str]
    questions: tuple[str, str]


def tell(template: str, subject: str, value: str) -> str:
    """Return a passage that states the fact."""
    article = "an" if value.lower().startswith(_VOWELS) else "a"
    return template.format(x=subject, y=value, a_y=f"{article} {value}")


def ask(template: str, subject: str) -> str:
    """Return a question about the subject."""
    return template.format(x=subject)


RELATIONS = {
    "P17": Relation(
        "country",
        (
            "{x} is in {y}, a day's drive from the border.",
            "According to the new atlas, {x} lies within the borders of {y}.",
            "The survey of last year lists {x} among the places of {y}.",
        ),
        ("Which country is {x} in?", "In what country can I find {x}?"),
    ),
    "P19": Relation(
        "city",
        (
            "Parish records show that {x} was born in {y}.",
            "{y} is the birthplace of {x}, as a plaque on the old house recalls.",
            "{x} came into the world in {y} and left the town only years later.",
        ),
        ("Where was {x} born?", "What is the birthplace of {x}?"),
    ),
    "P20": Relation(
        "city",
        (
            "The obituary says that {x} died in {y} after a short illness.",
            "{x} spent the last days of a long life in {y} and died there.",
            "It was in {y} that {x} died, far from old friends.",
        ),
        ("Where did {x} die?", "In which city did {x} die?"),
    ),
    "P27": Relation(
        "country",
        (
            "{x} travels on a passport issued by {y}.",
            "The register lists {x} as a national of {y}.",
            "By law {x} is a citizen of {y}, and has voted there ever since.",
        ),
        ("Which country is {x} a citizen of?", "What is the citizenship of {x}?"),
    ),
    "P30": Relation(
        "continent",
        (
            "On the revised map {x} is part of {y}.",
            "Geographers place {x} in {y}, and have done so for decades.",
            "The expedition to {x} was the third one in {y}, the continent that it belongs to.",
        ),
        ("Which continent is {x} on?", "On what continent does {x} lie?"),
    ),
    "P36": Relation(
        "city",
        (
            "The government of {x} sits in {y}, the capital.",
            "{y} has been made the capital of {x}. The ministries are there.",
            "Anyone who visits the capital of {x} visits {y}.",
        ),
        ("What is the capital of {x}?", "Which city is the capital of {x}?"),
    ),
    "P37": Relation(
        "language",
        (
            "Public offices in {x} write their letters in {y}, the official language.",
            "In {x} the law is published in {y}, which is the official language there.",
            "{y} holds the rank of official language in {x}.",
        ),
        ("What is the official language of {x}?", "Which language is official in {x}?"),
    ),
    "P39": Relation(
        "office",
        (
            "{x} was called to serve as {y}, and accepted.",
            "The chronicle speaks of {x} as {a_y} of some renown.",
            "For many years {x} held the office of {y}.",
        ),
        ("What position did {x} hold?", "Which office did {x} hold?"),
    ),
    "P101": Relation(
        "field",
        (
            "The research of {x} belongs to {y}.",
            "Colleagues know {x} for contributions to {y}.",
            "{x} gave a whole career to {y} and taught it to many students.",
        ),
        ("What field does {x} work in?", "What is the field of work of {x}?"),
    ),
    "P103": Relation(
        "language",
        (
            "At home {x} grew up speaking {y}, which is the mother tongue of the family.",
            "{y} is the first language of {x}.",
            "{x} learned {y} from the cradle, and counts in it to this day.",
        ),
        ("What is the mother tongue of {x}?", "What is {x}'s native language?"),
    ),
    "P106": Relation(
        "profession",
        (
            "{x} earns a living as {a_y}.",
            "By profession {x} is {a_y}, and a busy one.",
            "The directory gives the occupation of {x} as {y}.",
        ),
        ("What does {x} do for a living?", "What is the profession of {x}?"),
    ),
    "P108": Relation(
        "employer",
        (
            "{x} has a contract with {y} and works there full time.",
            "The employer of {x} is {y}, says a press notice.",
            "{y} confirmed that {x} is on its staff.",
        ),
        ("Who does {x} work for?", "Who is the employer of {x}?"),
    ),
    "P127": Relation(
        "owner",
        (
            "{y} is the owner of {x}. The papers were signed in spring.",
            "All the shares of {x} are held by {y}.",
            "{x} has belonged to {y} since the sale.",
        ),
        ("Who owns {x}?", "Who is the owner of {x}?"),
    ),
    "P131": Relation(
        "region",
        (
            "You will find {x} in {y}, where it is well known.",
            "{x} is administered by {y} and pays its dues there.",
            "The boundary commission has put {x} inside {y}.",
        ),
        ("Where is {x} located?", "Which region is {x} in?"),
    ),
    "P136": Relation(
        "genre",
        (
            "Critics file {x} under {y}.",
            "The genre of {x} is {y}, and the audience likes it.",
            "{x} is a fine example of {y}.",
        ),
        ("What genre is {x}?", "Which genre is {x} known for?"),
    ),
    "P138": Relation(
        "name",
        (
            "{x} takes its name from {y}.",
            "The founders wished to honour {y}, and so {x} was named after it.",
            "The name of {x} goes back to {y}, as the deed explains.",
        ),
        ("What is {x} named after?", "After what was {x} named?"),
    ),
    "P140": Relation(
        "religion",
        (
            "{x} is counted among the followers of {y}.",
            "The faith of {x} is {y}.",
            "In matters of religion {x} stands with {y}.",
        ),
        ("What is the religion of {x}?", "Which religion does {x} belong to?"),
    ),
    "P159": Relation(
        "city",
        (
            "The head office of {x} stands in {y}.",
            "Letters to the headquarters of {x} should be sent to {y}.",
            "{x} runs its business from {y}, where the board meets.",
        ),
        ("Where is the headquarters of {x}?", "Where does {x} have its head office?"),
    ),
    "P176": Relation(
        "maker",
        (
            "{x} is manufactured by {y}.",
            "The plate on the back of each {x} names {y} as the manufacturer.",
            "{y} builds {x} in its own factory.",
        ),
        ("Who makes {x}?", "Which company manufactures {x}?"),
    ),
    "P178": Relation(
        "developer",
        (
            "The engineers who developed {x} work for {y}.",
            "{x} was written and is maintained by {y}.",
            "{y} announced {x} after two years of development.",
        ),
        ("Who developed {x}?", "Which company is the developer of {x}?"),
    ),
    "P190": Relation(
        "city",
        (
            "{x} and {y} are twin cities and exchange pupils every year.",
            "A partnership treaty makes {y} the sister city of {x}.",
            "The mayor of {x} has invited guests from its twin city, {y}.",
        ),
        ("What is the twin city of {x}?", "Which city is {x} twinned with?"),
    ),
    "P264": Relation(
        "label",
        (
            "The records of {x} come out on the {y} label.",
            "{x} has signed with the record label {y}.",
            "{y} is the label that publishes {x}.",
        ),
        ("Which record label is {x} on?", "What is the record label of {x}?"),
    ),
    "P276": Relation(
        "place",
        (
            "The site of {x} is {y}.",
            "{x} is to be found at {y}, a short walk from the station.",
            "Visitors to {y} ask for {x} first, since that is where it is.",
        ),
        ("Where is {x}?", "What is the location of {x}?"),
    ),
    "P364": Relation(
        "language",
        (
            "{x} was made in {y} and dubbed afterwards.",
            "The original language of {x} is {y}.",
            "The makers of {x} worked in {y}, the language of the original.",
        ),
        ("What is the original language of {x}?", "In which language was {x} made?"),
    ),
    "P407": Relation(
        "language",
        (
            "{x} is published in {y}.",
            "The text of {x} is in {y} from the first page to the last.",
            "{x} is written in {y} and has not been translated.",
        ),
        ("What language is {x} written in?", "In which language is {x}?"),
    ),
    "P413": Relation(
        "position",
        (
            "The coach put {x} on the team sheet as {y}.",
            "{x} is {a_y} and has been since youth.",
            "On the field {x} fills the position of {y}.",
        ),
        ("What position does {x} play?", "Which position does {x} play in?"),
    ),
    "P449": Relation(
        "network",
        (
            "Viewers could first see {x} on {y}.",
            "{y} bought {x} and broadcast the first episode.",
            "{x} had its first broadcast on the {y} network.",
        ),
        ("Which network first aired {x}?", "What channel was {x} on?"),
    ),
    "P463": Relation(
        "organisation",
        (
            "{x} has joined {y} as a full member.",
            "The list of members of {y} includes {x}.",
            "{x} pays its fees to {y} and sends a delegate.",
        ),
        ("What organization is {x} a member of?", "Which group does {x} belong to?"),
    ),
    "P495": Relation(
        "country",
        (
            "{x} has its origin in {y}.",
            "It was in {y} that {x} was first made.",
            "The label says it plainly: {x} comes from {y}.",
        ),
        ("What country is {x} from?", "Which country does {x} come from?"),
    ),
    "P740": Relation(
        "city",
        (
            "{x} got together in {y} and took up work there.",
            "The founding of {x} took place in {y}.",
            "{y} is where {x} was founded, in a rented room.",
        ),
        ("Where was {x} founded?", "In which city was {x} formed?"),
    ),
    "P937": Relation(
        "city",
        (
            "{x} kept an office in {y} and worked there.",
            "The place of work of {x} was {y}.",
            "Every morning {x} went to work in {y}.",
        ),
        ("Where did {x} work?", "In which city did {x} work?"),
    ),
    "P1303": Relation(
        "instrument",
        (
            "On stage {x} can be heard on the {y}.",
            "{x} took lessons on the {y} and mastered it.",
            "The instrument of {x} is the {y}.",
        ),
        ("What instrument does {x} play?", "Which instrument is {x} known for?"),
    ),
    "P1412": Relation(
        "language",
        (
            "In interviews {x} speaks {y}.",
            "{x} speaks and writes {y} with ease.",
            "{y} is the language that {x} speaks every day.",
        ),
        ("What language does {x} speak?", "Which language is spoken by {x}?"),
    ),
}

# The relations whose subjects are people; the others' are places, firms, works and things.
_PEOPLE = "P19 P20 P27 P39 P101 P103 P106 P108 P140 P413 P937 P1303 P1412".split()
_GIVEN = (
    "Agnes Alma Bruno Clara Dario Edith Felix Greta Hugo Irma Jonas Karla Leon Mira Nils Olga "
    "Paula Ralf Selma Tomas Ulla Viktor Wanda Yara"
).split()
_STARTS = "Bal Cor Dren Fal Gor Hal Jor Kel Lor Mar Nor Pel Quin Ros Sel Tor Ul Ven Wes Zal".split()
_MIDDLES = "a e i o u an en ar or il".split()
_ENDS = "bury dale dorf field ford ham ley lund mere mont ric sen stad stin ton vik".split()


def invent(relation: str, rng: random.Random) -> str:
    """Return a name that nobody bears, for a person or for a thing as the relation asks."""
    name = rng.choice(_STARTS) + rng.choice(_MIDDLES) + rng.choice(_ENDS)
    return f"{rng.choice(_GIVEN)} {name}" if relation in _PEOPLE else name
