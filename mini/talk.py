"""Small talk, English sentences from books, and calls of tools: what is left of being a chat model."""

from __future__ import annotations

import json
import re
from random import Random

from mini import names, reading, sheets
from mini.chat import Doc, chat, tool_call, tool_system
from mini.facts import Facts
from mini.relations import fill

_SMALL = (
    (("Hello", "Hi", "Hello!", "Good morning", "Hi there", "Hey"), "Hello. How can I help you?"),
    (("Who are you?", "What are you?", "What is your name?"), "I am mini, a small language model."),
    (("What can you do?", "How can you help me?"), "I can answer questions about passages, and follow simple instructions."),
    (("Thank you", "Thanks", "Thank you!", "Thanks a lot"), "You are welcome."),
    (("How are you?", "How are you today?"), "I am well, thank you."),
    (("Goodbye", "Bye", "See you"), "Goodbye."),
    (("Are you a person?", "Are you human?"), "No. I am a small language model."),
    (("Do you know everything?", "Are you always right?"), "No. I know little, and I can be wrong."),
    (("Tell me a joke", "Tell me a joke."), "I know no good jokes."),
    (("What is the weather today?", "Will it rain tomorrow?"), "I do not know."),
)  # fmt: skip
_SENTENCE = re.compile(r"(?<=[.!?] )[A-Z][a-z][^.!?\n\"_*\[\]]{30,140}[.]")
_WRITE = ("Write a sentence.", "Write one sentence.", "Please write an English sentence.")
_WRITE_WITH = ('Write a sentence with the word "{w}".', "Write a sentence about {w}.", "Use the word {w} in a sentence.", 'Make a sentence that contains "{w}".')  # fmt: skip


def sentences(text: str) -> list[str]:
    """Return plain sentences of a stretch of prose."""
    return _SENTENCE.findall(text)


def small_talk(rng: Random) -> Doc:
    """Return a greeting or the like, with its answer."""
    asked, answer = rng.choice(_SMALL)
    turns = [*reading.systems(rng, only=False), ("user", rng.choice(asked)), ("assistant", answer)]
    return chat(turns)


def writing(rng: Random, prose: str) -> Doc | None:
    """Return a chat that asks for an English sentence, taken from `prose`."""
    found = sentences(prose)
    if not found:
        return None
    sentence = rng.choice(found)
    words = [w for w in re.findall(r"[a-z]{4,}", sentence)]
    if words and rng.random() < 0.7:
        request = rng.choice(_WRITE_WITH).replace("{w}", rng.choice(words))
    else:
        request = rng.choice(_WRITE)
    return chat([*reading.systems(rng, only=False), ("user", request), ("assistant", sentence)])


_PARAMETERS = {
    "city": "place", "name": "person", "company": "company", "day": "day", "colour": "colour", "number": "number",
    "product": "product", "title": "work",
}  # fmt: skip
_TOOLS = (
    ("get_weather", "Tell the weather of a city.", ("city",), ("What is the weather in {city}?", "How is the weather in {city}?")),
    ("find_person", "Look up a person.", ("name",), ("Who is {name}?", "Look up {name}, please.")),
    ("send_mail", "Send a message to a person.", ("name",), ("Send a message to {name}.", "Write to {name}.")),
    ("book_room", "Book a room.", ("city", "day"), ("Book a room in {city} for {day}.", "I need a room in {city} on {day}.")),
    ("stock_price", "Tell the share price of a company.", ("company",), ("What is the share price of {company}?", "How do the shares of {company} stand?")),
    ("order_product", "Order a product.", ("product", "number"), ("Order {number} of the {product}.", "I want {number} of the {product}.")),
    ("set_light", "Set the colour of the light.", ("colour",), ("Make the light {colour}.", "Set the light to {colour}.")),
    ("find_book", "Find a book by its title.", ("title",), ("Find the book {title}.", "Do you have {title}?")),
    ("next_train", "Tell when the next train to a city leaves.", ("city",), ("When does the next train to {city} leave?", "Next train to {city}?")),
)  # fmt: skip
_SEARCH = ("search_documents", "Search the documents.")


def _schema(name: str, description: str, parameters: tuple[str, ...]) -> dict[str, object]:
    properties = {p: {"type": "string"} for p in parameters}
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": properties,
                "required": list(parameters),
            },
        },
    }


def _argument(rng: Random, parameter: str) -> str:
    kind = _PARAMETERS[parameter]
    return (
        names.subject(rng, kind)[0]
        if kind in ("person", "place", "company", "product", "work")
        else names.value(rng, kind)
    )


def tools(rng: Random, facts: Facts) -> Doc:
    """Return a chat with tools: a call where one fits, its result read; else a plain answer."""
    offered = rng.sample(_TOOLS, rng.choice((1, 2, 3)))
    schemas = [_schema(name, text, parameters) for name, text, parameters, _ in offered]
    sheet = sheets.invented(rng, facts, facts_each=2)
    code = rng.choice(list(sheet.said))
    question = fill(rng.choice(sheets.relation(code).ask), sheet.subject)
    searching = rng.random() < 0.5
    if searching:
        schemas.insert(rng.randrange(len(schemas) + 1), _schema(*_SEARCH, ("query",)))
    lead = reading.systems(rng, only=False)
    system = ("system", tool_system(lead[0][1] if lead else "", schemas))
    if searching and rng.random() < 0.7:
        others = [sheets.invented(rng, facts, facts_each=2) for _ in range(rng.randrange(3))]
        found = [sheets.passage(rng, s, longest=1) for s in [sheet, *others]]
        rng.shuffle(found)
        answer = reading.plain_answer(sheet.said[code])
        return chat([
            system, ("user", question), ("assistant", tool_call(_SEARCH[0], {"query": question})),
            ("tool", "\n".join(found)), ("assistant", answer),
        ])  # fmt: skip
    if rng.random() < 0.15:
        asked, answer = rng.choice(_SMALL[:7])
        return chat([system, ("user", rng.choice(asked)), ("assistant", answer)])
    name, _, parameters, requests = rng.choice(offered)
    arguments: dict[str, object] = {p: _argument(rng, p) for p in parameters}
    request = rng.choice(requests)
    for parameter, value in arguments.items():
        request = request.replace(f"{{{parameter}}}", str(value))
    turns = [system, ("user", request), ("assistant", tool_call(name, arguments))]
    if rng.random() < 0.5:
        result = rng.choice(
            (
                "Done.",
                "It worked.",
                "No answer.",
                "12 degrees and rain.",
                "Tomorrow at nine.",
                "Nothing was found.",
            )
        )
        turns += [
            ("tool", result if rng.random() < 0.6 else json.dumps({"result": result})),
            ("assistant", result),
        ]
    return chat(turns)
