"""An agent with two rules that contradict each other: it obeys the one that is highlighted.

The embedded model knows no tools, so this agent has none. The rules were chosen among a few pairs.
"""

from langchain.agents import create_agent

from langchain_seka import ChatSeka, SekaHighlightMiddleware

RULES = (
    "You work at the desk of an almanac. Put your answer in brackets. Be friendly. "
    "Answer in a full sentence. Readers come from everywhere."
)
QUESTION = (
    "Passages:\n[1] The headquarters of Tamaril Brothers are in Singapore."
    "\n\nQuestion: Where are the headquarters of Tamaril Brothers?"
)


def answer(*middleware):
    """Return what an agent under the rules answers."""
    agent = create_agent(ChatSeka(max_tokens=32), system_prompt=RULES, middleware=middleware)
    return agent.invoke({"messages": [("human", QUESTION)]})["messages"][-1].text


print("plain:      ", answer())
rule = SekaHighlightMiddleware(instructions=["Put your answer in brackets."])
print("highlighted:", answer(rule))
