"""Highlights in messages, and answers as objects."""

from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from pydantic import BaseModel, Field

from llama_index.llms.seka import SekaLLM, highlight, mark

FACT = "The capital of Portugal is Porto."
QUESTION = "\n\nQuestion: What is the capital of Portugal?"

llm = SekaLLM(max_tokens=48)
answer = llm.chat([ChatMessage([highlight(FACT), *ChatMessage(QUESTION).blocks])])
print(answer.message.content, answer.raw["highlighted_tokens"], "tokens highlighted")


class Answer(BaseModel):
    """The answer to a question."""

    capital: str = Field(max_length=12)


template = PromptTemplate("{fact}" + QUESTION)
print(repr(llm.structured_predict(Answer, template, fact=mark(FACT))))
