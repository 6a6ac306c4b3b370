"""Learn a bank for a model from questions whose answers stand in a context, keep it, and use it."""

from tempfile import TemporaryDirectory

from seka_rag import SteeredModel, grounding_triplet, highlight, learn

FACTS = [
    ("Mara Lind", "Oslo", "violin"),
    ("Peter Vane", "Lisbon", "trumpet"),
    ("Ida Brandt", "Vienna", "cello"),
    ("Tom Aldous", "Madrid", "flute"),
    ("Nora Quist", "Dublin", "harp"),
    ("Karl Winter", "Prague", "piano"),
    ("Lena Orme", "Athens", "guitar"),
    ("Otto Falk", "Geneva", "organ"),
    ("Sara Bell", "Lyon", "oboe"),
    ("Hugo Reyes", "Seville", "drums"),
]

model = SteeredModel.from_pretrained()
triplets = []
for name, city, instrument in FACTS:
    context = f"{name} was born in {city} and plays the {instrument}."
    born, plays = f"Where was {name} born?", f"What does {name} play?"
    triplets.append(grounding_triplet(context, born, plays, city))
    triplets.append(grounding_triplet(context, plays, born, instrument))

bank = learn(model, triplets)
print(f"learned from {bank.n_tokens} tokens, for layers {sorted(bank.operators())}")

with TemporaryDirectory() as folder:
    bank.save_pretrained(folder)
    steered = SteeredModel.from_pretrained(bank=folder)

notice = "The headquarters of Standard Chartered are in Singapore."
question = "Where are the headquarters of Standard Chartered?"
prompt = ["Passages:\n[1] ", highlight(notice), f"\n\nQuestion: {question}"]
answer = steered.generate([{"role": "user", "content": prompt}], gain=1.0, max_new_tokens=32)
print(answer.text)
