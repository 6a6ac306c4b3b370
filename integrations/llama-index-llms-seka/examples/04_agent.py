"""An agent with two rules that contradict each other: it obeys the one that is highlighted.

The embedded model is too small for the words of an agent, so this one goes without them, and has no
tools. The rules were chosen among a few pairs.
"""

import asyncio

from llama_index.core.agent.workflow import FunctionAgent

from llama_index.llms.seka import SekaLLM, mark

RULES = (
    "You work at the desk of an almanac. {rule} Be friendly. "
    "Answer in a full sentence. Readers come from everywhere."
)
RULE = "Put your answer in brackets."
QUESTION = (
    "Passages:\n[1] The headquarters of Tamaril Brothers are in Singapore."
    "\n\nQuestion: Where are the headquarters of Tamaril Brothers?"
)


async def answer(rule):
    """Return what an agent under the rules answers."""
    agent = FunctionAgent(llm=SekaLLM(max_tokens=32), system_prompt=RULES.format(rule=rule))
    return (await agent.run(QUESTION)).response.content


print("plain:      ", asyncio.run(answer(RULE)))
print("highlighted:", asyncio.run(answer(mark(RULE, kind="instruction"))))
