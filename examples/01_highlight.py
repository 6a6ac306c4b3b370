"""Highlight one sentence of a prompt: the model that remembers otherwise now follows it."""

from seka_rag import SteeredModel, highlight

model = SteeredModel.from_pretrained()  # the embedded model; any Hugging Face model works too
notice = "From 1 March the capital of Texas is Dallas."


def ask(passage, gain=None):
    content = ["Passages:\n[1] ", passage, "\n\nQuestion: What is the capital of Texas?"]
    return model.generate([{"role": "user", "content": content}], gain=gain, max_new_tokens=32)


print("plain:      ", ask(notice).text)
print("highlighted:", ask(highlight(notice)).text)
