"""Weigh two answers against each other while the gain grows: a curve instead of one answer."""

from seka_rag import SteeredModel, highlight

model = SteeredModel.from_pretrained()
prompt = [
    "Previously the headquarters of Sunoco were in Philadelphia. Currently ",
    highlight("the headquarters of Sunoco are in Denver."),
    " The headquarters of Sunoco are in",
]
print("gain   log P(Denver) - log P(Philadelphia)")
for gain in (0.0, 0.5, 1.0, 2.0, 4.0):
    new, old = model.score(prompt, [" Denver", " Philadelphia"], gain=gain)
    print(f"{gain:4.1f}   {new - old:+.2f}")
