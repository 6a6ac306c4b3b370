"""Highlight one sentence of a prompt: the model that remembers otherwise now follows it."""

from seka_rag import SteeredModel, highlight

model = SteeredModel.from_pretrained()  # the embedded model; any Hugging Face model works too
notice = "The headquarters of Standard Chartered are in Singapore."


def ask(passage, gain=None):
    content = [
        "Passages:\n[1] ",
        passage,
        "\n\nQuestion: Where are the headquarters of Standard Chartered?",
    ]
    return model.generate([{"role": "user", "content": content}], gain=gain, max_new_tokens=32)


print("plain:      ", ask(notice).text)
print("highlighted:", ask(highlight(notice)).text)
