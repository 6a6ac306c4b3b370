"""Highlight one sentence of a prompt: the model that remembers otherwise now follows it."""

from seka_rag import SteeredModel, highlight

model = SteeredModel.from_pretrained()  # the embedded model; any Hugging Face model works too
notice = "The headquarters of Standard Chartered are in Singapore."
question = "Where are the headquarters of Standard Chartered?"


def answer(passage):
    content = ["Passages:\n[1] ", passage, f"\n\nQuestion: {question}"]
    return model.generate([{"role": "user", "content": content}], max_new_tokens=32).text


print("plain:      ", answer(notice))
print("highlighted:", answer(highlight(notice)))
