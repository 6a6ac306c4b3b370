"""Relations between a subject and a value, and the ways English puts them.

`say` templates are whole sentences with {x} (subject) and {y} (value); those that end in {y} double as cloze
prompts. `ask` templates are questions that a person would type. Codes such as P19 are Wikidata's, so that rendered
text can be joined with ParaRel and CounterFact facts; lower-case codes are everyday facts of notices and letters,
which only invented subjects have.

This module knows wording, and nothing about data, tokens or the order of a document.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Relation:
    """One relation: the kinds of subject and value it joins, and its wording."""

    code: str
    subject: str  # kind of subject: person, place, company, product, work, show, band, thing
    value: str  # kind of value: place, person, language, job, ...
    say: tuple[str, ...]
    ask: tuple[str, ...]

    @property
    def cloze(self) -> tuple[str, ...]:
        """Return the beginnings of sentences that the value completes."""
        return tuple(s[: -len(" {y}.")] for s in self.say if s.endswith(" {y}."))


def read(table: str) -> dict[str, Relation]:
    """Return the relations of a table: blocks of «code subject value», «- sentence» and «? question» lines."""
    relations: dict[str, Relation] = {}
    for block in table.strip().split("\n\n"):
        head, *lines = block.splitlines()
        code, subject, value = head.split()
        relations[code] = Relation(
            code=code,
            subject=subject,
            value=value,
            say=tuple(line[2:] for line in lines if line.startswith("- ")),
            ask=tuple(line[2:] for line in lines if line.startswith("? ")),
        )
    return relations


KNOWN = read("""
P19 person place
- {x} was born in {y}.
- {x} comes from {y}.
- {x} grew up where the family had always lived, in {y}.
- The birthplace of {x} is {y}.
- {y} is the birthplace of {x}.
- The home town of {x} is {y}.
- {x} was born and raised in {y}.
- {x} first saw the light of day in {y}.
- It was in {y} that {x} was born.
- {x}, born in {y}, was the youngest of four children.
- {x} is a native of {y}.
? Where was {x} born?
? In which place was {x} born?
? What is the birthplace of {x}?
? Where does {x} come from?
? Which town is {x} from?
? Where is {x} from?
? Where was {x} born and raised?

P20 person place
- {x} died in {y}.
- {x} spent the last days of life in {y}.
- The death of {x} came in {y}.
- {y} is where {x} died.
- {x} passed away peacefully in {y}.
- {x} died at home in {y}.
- It was in {y} that {x} died.
- {x}, who was ill for a long time, died in {y}.
? Where did {x} die?
? In which city did {x} die?
? What was the place of death of {x}?
? Where did {x} pass away?
? Where did {x} spend the last days of life?
? In which place did {x} die?

P27 person country
- {x} is a citizen of {y}.
- {x} holds a passport of {y}.
- The country of citizenship of {x} is {y}.
- {y} counts {x} among its citizens.
- {x} has the nationality of {y}.
- {x} became a citizen of {y}.
- {y} gave {x} a passport.
? Of which country is {x} a citizen?
? What is the citizenship of {x}?
? What country is {x} a citizen of?
? Which passport does {x} carry?
? What nationality does {x} have?
? What is the nationality of {x}?

P103 person language
- The native language of {x} is {y}.
- {x} grew up speaking {y}.
- The mother tongue of {x} is {y}.
- At home the parents of {x} spoke {y}.
- {x} learned {y} as a child, before any other language.
- {x} is a native speaker of {y}.
? What is the native language of {x}?
? What is the mother tongue of {x}?
? Which language did {x} grow up with?
? What is the first language of {x}?
? What is {x}'s mother tongue?
? What is {x}'s native language?

P1412 person language
- {x} speaks {y}.
- {x} writes and speaks in {y}.
- In conversation {x} uses {y}.
- {y} is the language that {x} uses.
- The letters of {x} are written in {y}.
- {x} gives speeches in {y}.
- {x} is fluent in {y}.
? Which language does {x} speak?
? What language does {x} use?
? In which language does {x} write?
? What does {x} speak?
? What language does {x} speak?
? Which language is used by {x}?

P106 person job
- {x} works as {a_y}.
- {x} is {a_y} by profession.
- The profession of {x} is {y}.
- The occupation of {x} is {y}.
- {x} is {a_y}.
- {x} has been {a_y} for many years.
- {x} trained as {a_y}.
- {x}, {a_y}, is well known here.
? What is the profession of {x}?
? What does {x} do for a living?
? What is the occupation of {x}?
? What job does {x} have?
? What does {x} work as?
? What is {x}'s job?
? What is {x}'s profession?
? What does {x} do?

P101 person field
- {x} works in the field of {y}.
- The field of work of {x} is {y}.
- {x} is an expert in {y}.
- {y} is the subject that {x} studies.
- {x} has written a great deal about {y}.
- {x} teaches {y}.
- The research of {x} is about {y}.
? In which field does {x} work?
? What is the field of work of {x}?
? What is {x} an expert in?
? Which subject does {x} study?
? What does {x} teach?
? What is {x}'s field?

P108 person company
- {x} works for {y}.
- {x} is employed by {y}.
- The employer of {x} is {y}.
- {y} employs {x}.
- {x} has a post at {y}.
- {x} has taken a job with {y}.
- {x} joined {y} as an employee.
- {x} is on the staff of {y}.
? Who does {x} work for?
? Who is the employer of {x}?
? Where is {x} employed?
? Which organisation employs {x}?
? Which company does {x} work for?
? Where does {x} work?
? Who employs {x}?

P937 person place
- {x} worked in {y}.
- The office of {x} was in {y}.
- {x} had a workshop in {y}.
- {y} is the city in which {x} worked.
- {x} spent many working years in {y}.
? Where did {x} work?
? In which city did {x} work?
? Which city did {x} work in?
? Where is the office of {x}?

P39 person office
- {x} holds the office of {y}.
- The position held by {x} is {y}.
- {x} was chosen to be {y}.
- {x} serves as {y}.
- {x} has been made {y}.
- {x} became {y}.
? Which position does {x} hold?
? What office does {x} hold?
? What is the position of {x}?
? What is {x}'s position?
? What did {x} become?

P413 person position
- {x} plays as {y}.
- On the field {x} plays the position of {y}.
- The usual position of {x} in the team is {y}.
- {x} has always played as {y}.
- {x} is the team's {y}.
- The coach uses {x} as {y}.
? Which position does {x} play?
? What is the playing position of {x}?
? In what position does {x} play?
? What is {x}'s position?
? As what does {x} play?

P1303 person instrument
- {x} plays the {y}.
- {x} is known for playing the {y}.
- {x} has played the {y} since childhood.
- {x} performs on the {y}.
- {x} took up the {y}.
? Which instrument does {x} play?
? What instrument does {x} play?
? What is the instrument of {x}?
? What does {x} play?
? What is {x}'s instrument?

P136 person genre
- {x} plays {y}.
- The music of {x} is {y}.
- {x} is known for performing {y}.
- The style of {x} is {y}.
- {x} performs {y}.
- Fans of {y} know {x} well.
? What kind of music does {x} play?
? Which genre does {x} play?
? What is the genre of {x}?
? What style is {x} known for?
? What music does {x} play?
? What is {x}'s genre?

P140 person religion
- The religion of {x} is {y}.
- {x} follows {y}.
- {x} is devoted to {y}.
- {x} converted to {y}.
- {x} is guided by {y}.
? What is the religion of {x}?
? Which religion does {x} follow?
? What faith does {x} belong to?
? What is {x}'s religion?

P463 company group
- {x} is a member of {y}.
- {x} belongs to {y}.
- {y} counts {x} among its members.
- {x} has joined {y}.
- {x} became a member of {y}.
? What is {x} a member of?
? Which organisation does {x} belong to?
? Of which group is {x} a member?
? Which group does {x} belong to?

P36 country place
- The capital of {x} is {y}.
- {y} is the capital of {x}.
- The government of {x} sits in {y}.
- The capital city of {x} is {y}.
- {x} is governed from its capital, {y}.
- The capital of {x} has been moved to {y}.
- {y} has become the capital of {x}.
- {x} chose {y} as its capital.
? What is the capital of {x}?
? Which city is the capital of {x}?
? What is the capital city of {x}?
? What is {x}'s capital?
? Which city is {x}'s capital?
? From which city is {x} governed?

P37 country language
- The official language of {x} is {y}.
- {y} is the official language of {x}.
- The courts of {x} work in {y}.
- In {x}, people speak {y}.
- {x} has made {y} its official language.
- The language of {x} is {y}.
- Laws in {x} are written in {y}.
? What is the official language of {x}?
? Which language is spoken in {x}?
? What language do people speak in {x}?
? What is {x}'s official language?
? What language is spoken in {x}?

P17 place country
- {x} is located in {y}.
- {x} lies in {y}.
- {x} is a place in {y}.
- The country of {x} is {y}.
- {x} belongs to {y}.
- {x} is one of the sights of {y}.
- You have to travel to {y} to see {x}.
? In which country is {x}?
? Which country is {x} located in?
? What country does {x} belong to?
? Where is {x}?
? In what country is {x}?
? Where is {x} located?

P30 place continent
- {x} is located in {y}.
- {x} is on the continent of {y}.
- {x} is a part of {y}.
- The continent of {x} is {y}.
- {x} lies on the continent of {y}.
? On which continent is {x}?
? What continent is {x} on?
? Which continent does {x} belong to?
? What continent does {x} belong to?

P131 place place
- {x} is in {y}.
- {x} is located in {y}.
- {x} can be found in {y}.
- {x} stands in {y}.
- {x} is part of {y}.
- {x} was moved to {y}.
- You will find {x} in {y}.
- {x} has its place in {y}.
? Where is {x} located?
? Where can {x} be found?
? Where is {x}?
? In which place is {x}?
? Where does {x} stand?
? Where is {x} to be found?

P276 place place
- {x} is in {y}.
- The location of {x} is {y}.
- {x} can be visited in {y}.
- {x} takes place in {y}.
- {x} was held in {y}.
- {x} has moved to {y}.
? Where is {x}?
? Where is {x} located?
? What is the location of {x}?
? Where was {x} held?

P190 place place
- {x} is a twin city of {y}.
- The twin city of {x} is {y}.
- {x} is twinned with {y}.
- {y} and {x} are twin cities.
- {x} signed a treaty of friendship with its twin city, {y}.
? What is the twin city of {x}?
? Which city is twinned with {x}?
? With which city is {x} twinned?
? Which is {x}'s twin city?

P138 thing name
- {x} is named after {y}.
- {x} got its name from {y}.
- The name of {x} honours {y}.
- {y} gave {x} its name.
- {x} owes its name to {y}.
- {x} was named in honour of {y}.
? What is {x} named after?
? After whom or what is {x} named?
? Where does the name of {x} come from?
? Who or what gave {x} its name?
? Where did {x} get its name?

P159 company place
- The headquarters of {x} are in {y}.
- {x} is based in {y}.
- {x} has its head office in {y}.
- {y} is home to the headquarters of {x}.
- {x} is run from {y}.
- {x} has moved its headquarters to {y}.
- The main office of {x} is in {y}.
- {x} moved to {y}.
- The managers of {x} have their offices in {y}.
? Where are the headquarters of {x}?
? Where is {x} based?
? Where is {x} headquartered?
? In which city does {x} have its head office?
? Where is the head office of {x}?
? Where is {x}'s headquarters?
? Where are {x}'s headquarters?
? In which city are the headquarters of {x}?
? Where is the main office of {x}?

P127 company owner
- {x} is owned by {y}.
- {x} belongs to {y}.
- The owner of {x} is {y}.
- {y} owns {x}.
- {x} was bought by {y}.
- {y} has taken over {x}.
- {x} now belongs to {y}.
- {x} was sold to {y}.
- {x} is a part of {y}.
? Who owns {x}?
? Who is the owner of {x}?
? To whom does {x} belong?
? Which company owns {x}?
? Who bought {x}?
? Who is {x}'s owner?
? Who does {x} belong to?

P740 band place
- {x} was founded in {y}.
- {x} was formed in {y}.
- {x} started in {y}.
- The story of {x} began in {y}.
- {y} is where {x} was founded.
- {x} was set up in {y}.
- {x} had its beginnings in {y}.
- The founders of {x} met in {y}.
? Where was {x} founded?
? Where was {x} formed?
? In which place did {x} start?
? Where was {x} created?
? Where does {x} come from?

P264 band label
- {x} is represented by {y}.
- The record label of {x} is {y}.
- {x} recorded for {y}.
- {y} publishes the music of {x}.
- {x} signed with {y}.
- {x} is under contract to {y}.
? What is the record label of {x}?
? Which label represents {x}?
? Who publishes the music of {x}?
? What is {x}'s record label?

P176 product company
- {x} is produced by {y}.
- {x} is made by {y}.
- The maker of {x} is {y}.
- {y} builds {x}.
- {x} comes from the factories of {y}.
- {x} is built by {y}.
- {y} makes {x}.
- {x} is a product of {y}.
? Who makes {x}?
? Which company produces {x}?
? Who is the maker of {x}?
? Who built {x}?
? Who manufactures {x}?
? Which company makes {x}?
? Who is {x} made by?

P178 product company
- {x} was developed by {y}.
- {x} was created by {y}.
- The developer of {x} is {y}.
- {y} developed {x}.
- {x} is developed by {y}.
- {x} is the work of {y}.
- The engineers of {y} wrote {x}.
- {y} has taken over the development of {x}.
? Who developed {x}?
? Which company created {x}?
? Who is the developer of {x}?
? Who created {x}?
? Who develops {x}?
? Who made {x}?
? Which company developed {x}?

P449 show channel
- {x} was first shown on {y}.
- {x} premiered on {y}.
- {x} can be watched on {y}.
- {y} broadcasts {x}.
- {x} is shown on {y}.
- {x} is broadcast by {y}.
- {x} airs on {y}.
- {x} has moved to {y}.
- {y} shows {x} every week.
? On which channel was {x} first shown?
? Who broadcasts {x}?
? Which network shows {x}?
? On which network did {x} premiere?
? Which channel shows {x}?
? On which channel is {x} shown?
? Which network broadcasts {x}?
? Where can {x} be watched?

P364 work language
- {x} was filmed in {y}.
- The actors of {x} speak {y}.
- {y} is the language of {x}.
- {x} was shot in {y}.
? What is the original language of {x}?
? In which language was {x} made?
? What is the language of {x}?
? What language is {x} in?

P407 work language
- {x} was written in {y}.
- The language of {x} is {y}.
- {x} is written in {y}.
- {y} is the language of {x}.
- {x} was first published in {y}.
? In which language was {x} written?
? What is the language of {x}?
? Which language is {x} written in?
? What language is {x} in?

P495 work country
- {x} was created in {y}.
- {x} originated in {y}.
- {x} was made in {y}.
- {x} comes from {y}.
- The country of origin of {x} is {y}.
- {x} is a work from {y}.
- {x} was produced in {y}.
? In which country was {x} created?
? Where was {x} made?
? What is the country of origin of {x}?
? Where does {x} come from?
? Which country does {x} come from?
""")

EVERYDAY = read("""
opens building hour
- {x} opens at {y}.
- Visitors are let into {x} from {y}.
- The doors of {x} open at {y}.
- {x} is open from {y}.
- From {y} on, {x} is open.
? When does {x} open?
? At what time does {x} open?
? What is the opening time of {x}?
? From what time is {x} open?
? What time does {x} open?

closes building hour
- {x} closes at {y}.
- The doors of {x} are locked at {y}.
- The last guests must leave {x} by {y}.
- {x} is open until {y}.
- {x} shuts at {y}.
? When does {x} close?
? At what time does {x} close?
? What is the closing time of {x}?
? What time does {x} close?
? Until when is {x} open?

price thing money
- {x} costs {y}.
- The price of {x} is {y}.
- You can buy {x} for {y}.
- {x} is on sale for {y}.
- A buyer paid {y} for {x}.
? How much does {x} cost?
? What is the price of {x}?
? What does {x} cost?
? How much is {x}?
? How much was paid for {x}?

colour thing colour
- The colour of {x} is {y}.
- {x} is painted {y}.
- {x} is {y}.
- {x} has been painted {y}.
? What colour is {x}?
? What is the colour of {x}?
? Which colour does {x} have?

built building year
- {x} was built in {y}.
- Work on {x} was finished in {y}.
- {x} dates from {y}.
- {x} was opened in {y}.
- {x} has stood here since {y}.
? When was {x} built?
? In which year was {x} built?
? What year does {x} date from?
? When was {x} opened?
? How old is {x}?

runs company person
- {x} is run by {y}.
- The director of {x} is {y}.
- {y} is in charge of {x}.
- {y} leads {x}.
- {x} is headed by {y}.
- {y} is the new head of {x}.
? Who runs {x}?
? Who is the director of {x}?
? Who is in charge of {x}?
? Who leads {x}?
? Who heads {x}?
? Who is the head of {x}?

founder company person
- {x} was founded by {y}.
- The founder of {x} is {y}.
- {y} started {x}.
- It was {y} who founded {x}.
- {y} set up {x}.
? Who founded {x}?
? Who is the founder of {x}?
? Who started {x}?
? Who set up {x}?

author work person
- {x} was written by {y}.
- The author of {x} is {y}.
- {y} wrote {x}.
- {x} is a book by {y}.
- It was {y} who wrote {x}.
? Who wrote {x}?
? Who is the author of {x}?
? By whom was {x} written?
? Whose work is {x}?
? Who is {x} by?

lives person place
- {x} lives in {y}.
- The home of {x} is in {y}.
- {x} moved to {y}.
- {x} has a small flat in {y}.
- {x} has moved to {y}.
- {x} is at home in {y}.
- {x} has lived in {y} for years.
? Where does {x} live?
? In which town does {x} live?
? What is the home of {x}?
? Where is {x} at home?
? Where has {x} moved?

teacher person person
- {x} was taught by {y}.
- The teacher of {x} was {y}.
- {y} gave {x} lessons.
? Who taught {x}?
? Who was the teacher of {x}?

spouse person person
- {x} is married to {y}.
- {y} married {x}.
- The partner of {x} is {y}.
? Who is {x} married to?
? Who is the partner of {x}?

pet person animal
- {x} keeps {a_y}.
- {x} owns {a_y}.
- The pet of {x} is {a_y}.
- {x} has {a_y}.
? Which animal does {x} keep?
? What pet does {x} have?
? What kind of animal does {x} own?
? What animal does {x} have?

age person number
- {x} is {y} years old.
- {x} has just turned {y}.
- The age of {x} is {y}.
- {x}, {y} years old, came first.
? How old is {x}?
? What is the age of {x}?
? What age is {x}?

bornyear person year
- {x} was born in the year {y}.
- The year of birth of {x} is {y}.
? When was {x} born?
? In which year was {x} born?

day event day
- {x} takes place on {y}.
- {x} is held every {y}.
- The day of {x} is {y}.
- {x} will be held on {y}.
- Come to {x} on {y}.
? On which day is {x}?
? When does {x} take place?
? What day is {x} held?
? When is {x}?
? What day is {x}?

venue event place
- {x} is held in {y}.
- {x} takes place in {y}.
- This year {x} moves to {y}.
- The town of {y} is host to {x}.
? Where is {x} held?
? Where does {x} take place?
? Where is {x} this year?

winner event person
- {x} was won by {y}.
- The winner of {x} is {y}.
- First prize at {x} went to {y}.
- {y} came first in {x}.
- {y} won {x}.
? Who won {x}?
? Who is the winner of {x}?
? Who came first in {x}?

material thing material
- {x} is made of {y}.
- The maker used {y} for {x}.
- {x} was cut from {y}.
- {x} is of {y}.
? What is {x} made of?
? Which material is {x} made of?
? What material is {x}?

length building length
- {x} is {y} long.
- The length of {x} is {y}.
- From end to end {x} measures {y}.
? How long is {x}?
? What is the length of {x}?

weight thing weight
- {x} weighs {y}.
- The weight of {x} is {y}.
? How much does {x} weigh?
? What is the weight of {x}?

room person room
- {x} works in {y}.
- You will find {x} in {y}.
- The office of {x} is {y}.
- {x} has moved to {y}.
? Which room is {x} in?
? Where is the office of {x}?
? In which room can I find {x}?
? Where can I find {x}?

members company number
- {x} has {y} members.
- {x} employs {y} people.
- The staff of {x} numbers {y}.
? How many people work at {x}?
? How many members does {x} have?

dish person dish
- The favourite dish of {x} is {y}.
- {x} likes to eat {y}.
- For supper {x} always orders {y}.
? What is the favourite dish of {x}?
? What does {x} like to eat?

serves building dish
- {x} serves {y}.
- The cooks of {x} are proud of their {y}.
- {x} is known for its {y}.
? What does {x} serve?
? What is {x} known for?

river place river
- {x} lies on the {y}.
- The river that runs through {x} is the {y}.
- The {y} flows past {x}.
? Which river runs through {x}?
? On which river does {x} lie?

mayor place person
- The mayor of {x} is {y}.
- {y} is the mayor of {x}.
- {x} is governed by {y}.
- {x} has elected {y} as mayor.
? Who is the mayor of {x}?
? Who governs {x}?
? Who is {x}'s mayor?

people place number
- {x} has {y} inhabitants.
- The population of {x} is {y}.
- {y} people live in {x}.
? How many people live in {x}?
? What is the population of {x}?

invented thing person
- {x} was invented by {y}.
- The inventor of {x} is {y}.
- {y} invented {x}.
? Who invented {x}?
? Who is the inventor of {x}?

keeper thing person
- {x} belongs to {y}.
- {x} is kept by {y}.
- The owner of {x} is {y}.
- {x} was given to {y}.
- {y} owns {x}.
? Who owns {x}?
? To whom does {x} belong?
? Who keeps {x}?
? Who has {x}?

kept thing room
- {x} is kept in {y}.
- {x} can be found in {y}.
- {x} is stored in {y}.
- {x} stands in {y}.
- Look for {x} in {y}.
? Where is {x} kept?
? Where can I find {x}?
? Where is {x} stored?
? Where does {x} stand?

code thing code
- The code of {x} is {y}.
- {x} has the number {y}.
- {x} is listed under {y}.
? What is the code of {x}?
? What is the number of {x}?

boss person person
- {x} reports to {y}.
- The boss of {x} is {y}.
- {x} takes orders from {y}.
- {y} is the boss of {x}.
? To whom does {x} report?
? Who is the boss of {x}?
? Who does {x} report to?

phone company telephone
- The telephone number of {x} is {y}.
- {x} can be called on {y}.
- Call {x} on {y}.
? What is the telephone number of {x}?
? On which number can {x} be called?
? What number do I call for {x}?

date event date
- {x} takes place on {y}.
- {x} begins on {y}.
- The date of {x} is {y}.
- {x} was moved to {y}.
? When does {x} begin?
? What is the date of {x}?
? On which date is {x}?
? When is {x}?

studied person field
- {x} studied {y}.
- {x} has a degree in {y}.
- At university {x} studied {y}.
? What did {x} study?
? In which subject does {x} have a degree?

school person company
- {x} teaches at {y}.
- {x} studied at {y}.
- {x} went to school at {y}.
? Where does {x} teach?
? Where did {x} study?
? Which school did {x} go to?

hobby person activity
- In the evening {x} likes {y}.
- The hobby of {x} is {y}.
- {x} spends Sundays with {y}.
? What is the hobby of {x}?
? What does {x} like in the evening?

sibling person person
- The brother of {x} is {y}.
- {x} is a cousin of {y}.
- {x} has a sister, {y}.
? Who is the brother of {x}?
? Who is the sister of {x}?
? Who is the cousin of {x}?

painter thing person
- {x} was painted by {y}.
- {y} painted {x}.
- {x} was designed by {y}.
? Who painted {x}?
? Who designed {x}?
? By whom was {x} made?

director work person
- {x} was directed by {y}.
- The director of {x} is {y}.
- {y} directed {x}.
? Who directed {x}?
? Who is the director of {x}?

coach band person
- {x} is coached by {y}.
- The manager of {x} is {y}.
- {y} manages {x}.
? Who coaches {x}?
? Who manages {x}?
? Who is the manager of {x}?

architect building person
- {x} was designed by {y}.
- The architect of {x} was {y}.
- {y} drew the plans for {x}.
? Who designed {x}?
? Who was the architect of {x}?

owns building person
- {x} is owned by {y}.
- The owner of {x} is {y}.
- {y} bought {x} years ago.
? Who owns {x}?
? Who bought {x}?
? Who is the owner of {x}?

bought building year
- {x} was sold in {y}.
- {x} changed hands in {y}.
? When was {x} sold?
? In which year did {x} change hands?

street company place
- {x} moved to {y} Street.
- The office of {x} is in {y} Street.
? To which street did {x} move?
? In which street is {x}?

builds company goods
- {x} builds {y}.
- {x} makes {y}.
- {x} sells {y}.
- {x} is a maker of {y}.
? What does {x} build?
? What does {x} make?
? What does {x} sell?

leads person goods
- {x} leads the {y} team.
- {x} is the head of {y}.
- The department of {x} is {y}.
? Which team does {x} lead?
? What is {x} the head of?

uses product goods
- {x} runs on {y}.
- {x} is powered by {y}.
- {x} needs {y}.
? What does {x} run on?
? What does {x} need?

topic work goods
- {x} is about {y}.
- The subject of {x} is {y}.
- {x} tells the story of {y}.
? What is {x} about?
? What is the subject of {x}?

hero work person
- The hero of {x} is {y}.
- {y} plays the leading part in {x}.
? Who is the hero of {x}?
? Who plays the leading part in {x}?

drink person goods
- {x} only drinks {y}.
- {x} orders {y} every time.
- {x} cannot do without {y}.
? What does {x} drink?
? What does {x} order?

president country person
- The president of {x} is {y}.
- {x} elected {y}.
- {y} rules {x}.
? Who is the president of {x}?
? Who rules {x}?
? Who was elected in {x}?

money country goods
- The currency of {x} is the {y}.
- In {x} one pays with the {y}.
? What is the currency of {x}?
? With what does one pay in {x}?
""")


_VOWEL_SOUND = re.compile(r"(?!one\b|once|uni|use|usual|euro|ewe)[aeiou]|hour|honest|heir", re.I)


def article(value: str) -> str:
    """Return the value with its indefinite article."""
    return f"an {value}" if _VOWEL_SOUND.match(value) else f"a {value}"


VERBS = (
    "bake,bottle,breed,build,carry,catch,clean,collect,cook,copy,cut,decorate,deliver,design,draw,export,fear,feed,film,"
    "fix,grow,guard,hate,hire,hunt,import,invent,judge,lend,love,maintain,measure,mend,miss,observe,open,order,pack,paint,"
    "photograph,pick,plant,polish,praise,prepare,print,produce,promise,protect,publish,record,rent,repair,report,save,sell,"
    "serve,sew,sing,store,study,supply,support,teach,test,train,translate,transport,use,visit,want,wash,watch,weave,write"
).split(",")


def attribute(noun: str) -> Relation:
    """Return the relation between a subject and whatever is its `noun`."""
    return Relation(
        code=f"attribute:{noun}",
        subject="any",
        value="open",
        say=(
            f"The {noun} of {{x}} is {{y}}.",
            f"{{x}} has {{y}} as its {noun}.",
            f"{{y}} is the {noun} of {{x}}.",
            f"{{x}}'s {noun} is {{y}}.",
        ),
        ask=(
            f"What is the {noun} of {{x}}?",
            f"What is {{x}}'s {noun}?",
            f"Which {noun} does {{x}} have?",
        ),
    )


def deed(verb: str) -> Relation:
    """Return the relation between a subject and what it does something to."""
    third = (
        verb[:-1] + "ies"
        if verb.endswith("ry") or verb.endswith("py")
        else verb + ("es" if verb.endswith(("ch", "sh", "ss", "x")) else "s")
    )
    return Relation(
        code=f"deed:{verb}",
        subject="any",
        value="open",
        say=(
            f"{{x}} {third} {{y}}.",
            f"Every day {{x}} {third} {{y}}.",
            f"It is {{x}} that {third} {{y}}.",
            f"{{x}} does not rest but {third} {{y}}.",
        ),
        ask=(f"What does {{x}} {verb}?", f"What is it that {{x}} {third}?"),
    )


def fill(template: str, subject: str, value: str = "") -> str:
    """Return the template with subject and value in place, its first letter a capital."""
    text = template.replace("{x}", subject).replace("{a_y}", article(value)).replace("{y}", value)
    return text[:1].upper() + text[1:]
