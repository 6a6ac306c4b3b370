"""Weigh two answers against each other while the gain grows: a curve instead of one answer."""

from seka_rag import SteeredModel, highlight

model = SteeredModel.from_pretrained()
prompt = [
    "Previously the capital of Portugal was Lisbon. Currently ",
    highlight("the capital of Portugal is Porto."),
    " The capital of Portugal is",
]
print("gain   log P(Porto) - log P(Lisbon)")
for gain in (0.0, 0.5, 1.0, 2.0, 4.0):
    new, old = model.score(prompt, [" Porto", " Lisbon"], gain=gain)
    print(f"{gain:4.1f}   {new - old:+.2f}")
