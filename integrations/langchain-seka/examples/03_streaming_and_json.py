"""Answers as they are written, and answers as objects."""

from pydantic import BaseModel, Field

from langchain_seka import ChatSeka, highlight

chat = ChatSeka(max_tokens=48)
messages = [
    {
        "role": "user",
        "content": [
            highlight("The capital of Portugal is Porto."),
            {"type": "text", "text": "\n\nQuestion: What is the capital of Portugal?"},
        ],
    }
]

print("|".join(chunk.text for chunk in chat.stream(messages) if chunk.text))


class Answer(BaseModel):
    """The answer to a question."""

    capital: str = Field(max_length=12)


print(repr(chat.with_structured_output(Answer).invoke(messages)))
